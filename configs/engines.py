"""Which partitions and transports DeepSpeed and FSDP2 can express, without importing either.

Read in DeepSpeed 0.19.8 and torch 2.13. Ours can express all of them.
"""

from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version

from configs.base import Fault
from configs.sharding import Partition
from configs.training import TrainingExperiment
from configs.transport import Transport


def engine_faults(experiment: TrainingExperiment) -> list[Fault]:
    """Find what the chosen engine cannot do.

    Args:
        experiment: Any.

    Returns:
        The faults, each of which names the engine, and what it can do instead.
    """
    match experiment.engine:
        case "deepspeed":
            return list(_deepspeed_faults(experiment))
        case "fsdp2":
            return list(_fsdp2_faults(experiment))
        case "ours":
            return []


def deepspeed_stage(partition: Partition, num_ranks: int) -> int | None:
    """Return DeepSpeed's ZeRO stage for a partition; 0 is plain data parallelism.

    Args:
        partition: Four degrees.
        num_ranks: N.

    Returns:
        0 to 3, also 3 with a backward degree of its own (hpZ); None for what it cannot express.
    """
    n = num_ranks
    match (partition.forward, partition.backward, partition.gradients, partition.optimizer):
        case (1, 1, 1, 1):
            return 0
        case (1, 1, 1, optimizer) if optimizer == n:
            return 1
        case (1, 1, gradients, optimizer) if gradients == optimizer == n:
            return 2
        case (forward, backward, gradients, optimizer) if (
            forward == gradients == optimizer == n and backward > 1
        ):
            return 3
        case _:
            return None


def _deepspeed_faults(experiment: TrainingExperiment) -> Iterator[Fault]:
    stage = deepspeed_stage(experiment.degrees, experiment.ranks)
    if stage is None:
        yield _deepspeed_partition_fault(experiment)
    if experiment.dtype == "float64":
        message = "DeepSpeed keeps its master weights in float32; use float32 or bfloat16, or "
        yield Fault(path="dtype", message=f"{message}engine ours", related=("engine",))
    if experiment.compile:
        message = "DeepSpeed gathers weights by hooks inside the blocks, which are compiled with "
        message += "ours and FSDP2 alone; leave compile off, or use engine ours"
        yield Fault(path="compile", message=message, related=("engine",))
    yield from _deepspeed_transport_faults(experiment.transport)
    if stage in {0, 1, 2}:
        for name in ("weights", "gradients"):
            if getattr(experiment.transport, name) != "full":
                words = "DeepSpeed quantizes with ZeRO-3 alone (zero3 or zeropp)"
                yield _wire_fault(name, experiment.transport, words)
    if stage == 3:
        yield from _quantized_shape_faults(experiment)


def _deepspeed_partition_fault(experiment: TrainingExperiment) -> Fault:
    degrees = experiment.degrees
    if len(set(degrees.model_dump().values())) == 1:
        message = f"DeepSpeed {_installed('deepspeed')} cannot split all states over "
        message += f"{degrees.forward} of {experiment.ranks} ranks: its MiCS was removed in "
        message += "0.19.7, and 0.19.6 fails over gloo; use engine fsdp2 or ours for it"
    else:
        message = f"DeepSpeed cannot express {_listed(degrees)}; use ddp, zero1, zero2, zero3 or "
        message += "zeropp (any backward degree above 1), or engine ours"
    return Fault(path="partition", message=message, related=("engine", "ranks"))


def _deepspeed_transport_faults(transport: Transport) -> Iterator[Fault]:
    if transport.weights not in {"full", "int8"}:
        yield _wire_fault("weights", transport, "DeepSpeed gathers weights in full or int8 (qwZ)")
    if (transport.gradients, transport.sync) not in {("full", "full"), ("int4", "int4")}:
        words = "DeepSpeed reduces gradients in full, or in int4 inside and across nodes (qgZ)"
        name = "gradients" if transport.gradients not in {"full", "int4"} else "sync"
        yield _wire_fault(name, transport, words)
    if transport.refresh != "full":
        words = "DeepSpeed sends no updated weights but with the next gather"
        yield _wire_fault("refresh", transport, words)
    if transport.error_feedback:
        words = f"DeepSpeed {_installed('deepspeed')} has no LoCo; 0.19.8 has removed it"
        yield _switch_fault("error_feedback", words)
    else:
        words = f"DeepSpeed {_installed('deepspeed')} has no LoCo"
        yield from _unused_faults(transport, ("error_beta", "error_reset_steps"), words)
    if transport.hadamard:
        yield _switch_fault("hadamard", "DeepSpeed does not transform gradients")
    words = "DeepSpeed makes blocks of its own of each matrix"
    yield from _unused_faults(transport, ("block_size",), words)


def _quantized_shape_faults(experiment: TrainingExperiment) -> Iterator[Fault]:
    """Find sizes that DeepSpeed's quantizer refuses, or silently reads wrong."""
    transport, ranks, model = experiment.transport, experiment.ranks, experiment.model
    related = ("engine", "ranks", "model")
    if transport.weights == "int8" and model.hidden % (8 * ranks):
        message = f"DeepSpeed's qwZ needs shards of whole eights, which a width of {model.hidden} "
        message += f"over {ranks} ranks does not give; use a multiple of {8 * ranks}, or full"
        yield Fault(path="transport.weights", message=message, related=related)
    if transport.gradients != "int4":
        return
    if ranks <= experiment.topology.ranks_per_node:
        message = f"DeepSpeed's qgZ needs two nodes, and {ranks} ranks are one; use full"
        yield Fault(path="transport.gradients", message=message, related=related)
    for rows in (model.vocabulary, model.hidden):
        groups = max(rows, model.hidden, ranks)
        if rows * model.hidden % (2 * ranks) == 0 and groups % ranks:
            # Its kernel launches groups // ranks blocks a rank, and so leaves out the rest.
            message = f"DeepSpeed's qgZ makes {groups} groups of a {rows} x {model.hidden} matrix, "
            message += f"which do not divide among {ranks} ranks; use full, or other sizes"
            yield Fault(path="transport.gradients", message=message, related=related)
            return


def _fsdp2_faults(experiment: TrainingExperiment) -> Iterator[Fault]:
    degrees, transport = experiment.degrees, experiment.transport
    shard = degrees.optimizer
    is_one = shard == experiment.ranks == 1
    if not is_one and (
        shard == 1 or degrees.forward != shard or degrees.gradients not in {1, shard}
    ):
        message = f"FSDP2 cannot express {_listed(degrees)}: it keeps weights and optimizer "
        message += "states at one degree above 1, the backward copy at any divisor of it, and "
        message += "gradients there or whole; use zero3, hsdp or zeropp, or engine ours"
        yield Fault(path="partition", message=message, related=("engine", "ranks"))
    for name in ("weights", "gradients", "sync", "refresh"):
        if getattr(transport, name) != "full":
            yield _wire_fault(name, transport, "FSDP2 has no quantized transport")
    for name in ("error_feedback", "hadamard"):
        if getattr(transport, name):
            yield _switch_fault(name, "FSDP2 has no quantized transport")
    names = ("block_size", "error_beta", "error_reset_steps")
    yield from _unused_faults(transport, names, "FSDP2 has no quantized transport")
    if transport.reuse_secondary:
        words = "FSDP2 gathers from its shards at rest in every micro-batch"
        yield _switch_fault("reuse_secondary", words)


def _unused_faults(transport: Transport, names: Iterable[str], words: str) -> Iterator[Fault]:
    """Find numbers that would change nothing, though somebody has set them."""
    for name in names:
        value, default = getattr(transport, name), Transport.model_fields[name].default
        if value != default:
            message = f"{words}, so that {value} would change nothing; leave it at {default}, or "
            yield Fault(
                path=f"transport.{name}", message=f"{message}use engine ours", related=("engine",)
            )


def _wire_fault(name: str, transport: Transport, words: str) -> Fault:
    message = f"{words}, not in {getattr(transport, name)}; change it, or use engine ours"
    return Fault(path=f"transport.{name}", message=message, related=("engine",))


def _switch_fault(name: str, words: str) -> Fault:
    message = f"{words}; switch it off, or use engine ours"
    return Fault(path=f"transport.{name}", message=message, related=("engine",))


def _listed(degrees: Partition) -> str:
    return "|".join(str(degree) for degree in degrees.model_dump().values())


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"
