"""What a training costs on a machine before anything runs: time, bytes, memory and energy.

Arithmetic only, without torch. The parts are in ``costs``: hops on links (``links``), formats
(``coding``), collectives of a unit (``moves``), passes and updates (``computing``), and how they
overlap (``timeline``).
Bytes are those of ``traffic``, memory is that of ``configs.training_memory``.

What is modelled is our engine. For the other two the schedule is assumed to be the same, with one
flat gather over all ranks of a degree, and gradients that are not quantized summed by the backend
in the type of the weights. Left out: reading the text, the journal, checkpoints, validation.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from configs.base import Fault
from configs.training import TrainingExperiment
from configs.training_memory import ITEM_BYTES, predicted_memory
from configs.transport import BITS, Wire
from tasks.runtime.prediction import Prediction
from tasks.zero.costs.coding import quantize_rate
from tasks.zero.costs.computing import (
    StageCompute,
    block_compute,
    embedding_compute,
    head_compute,
    optimizer_rate,
    update_s,
)
from tasks.zero.costs.links import Network
from tasks.zero.costs.moves import MoveCosts, UnitMoves
from tasks.zero.costs.timeline import (
    StepCosts,
    Times,
    UnitCosts,
    device_s,
    step_times,
    total_s,
)
from tasks.zero.costs.units import StageUnit, element_bytes, stage_units, unit_sizes
from tasks.zero.traffic import Move, Moves, expected_bytes

_TERA = 1e12


class CostError(ValueError):
    """The machine's file lacks numbers without which nothing can be predicted.

    Attributes:
        faults: Which ones, and where to write them; never empty.
    """

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults
        super().__init__("\n".join(str(fault) for fault in faults))


def predict(experiment: TrainingExperiment) -> Prediction:
    """Predict a train step of a training.

    Args:
        experiment: The training; see the head of this file for engines other than ours.

    Returns:
        The prediction; ``split_s`` adds up to ``step_s``.

    Raises:
        CostError: The machine's file lacks a number.
    """
    if faults := machine_faults(experiment):
        raise CostError(faults)
    costs = step_costs(experiment)
    times = step_times(costs, experiment.accumulation)
    # A device has no more than all of its time: what it does itself while it waits for others (on
    # CPUs, which copy what they compute with) is not hidden by the waiting of all.
    busy_s = device_s(costs, experiment.accumulation)
    times["interference"] += max(0.0, busy_s - total_s(times))
    return _prediction(experiment, times)


def machine_faults(experiment: TrainingExperiment) -> list[Fault]:
    """Find the numbers of the machine that a prediction needs and its file lacks.

    Args:
        experiment: The training.
    """
    return list(_machine_faults(experiment))


def step_costs(experiment: TrainingExperiment, *, kept_wire: Wire | None = None) -> StepCosts:
    """Return the parts of a train step, for ``costs.timeline.step_times``.

    Args:
        experiment: The training; ``machine_faults`` finds none in it.
        kept_wire: See ``move_costs``.
    """
    units = stage_units(experiment)
    moves = move_costs(experiment, kept_wire=kept_wire)
    of_unit: Callable[[int, bool], UnitMoves] = lru_cache(maxsize=None)(
        lambda length, is_trainable: moves.of_unit(length, is_trainable=is_trainable)
    )
    return StepCosts(
        stages=_stages(experiment, units),
        units=[
            UnitCosts(
                stage=unit.stage,
                moves=of_unit(unit.length, unit.is_trainable),
                is_trainable=unit.is_trainable,
                is_shared=unit.is_shared,
                update_s=_update_s(experiment, unit),
            )
            for unit in units
        ],
        prefetch=experiment.prefetch,
        reuses=experiment.transport.reuse_secondary,
        norm_s=moves.network.scalars_s(),
    )


def move_costs(experiment: TrainingExperiment, *, kept_wire: Wire | None = None) -> MoveCosts:
    """Return what prices the collectives of a training's units.

    Args:
        experiment: The training.
        kept_wire: Of other engines' gathers for the backward pass, from a copy of a smaller
            degree. Default: that of the weights.
    """
    is_ours = experiment.engine == "ours"
    return MoveCosts(
        replace(_moves(experiment), kept_wire=kept_wire),
        Network(experiment.topology, experiment.ranks),
        sums_by_backend=not is_ours,
    )


def _moves(experiment: TrainingExperiment) -> Moves:
    return Moves(
        experiment.degrees,
        experiment.transport,
        experiment.topology,
        experiment.ranks,
        element_bytes(experiment),
        gathers_stop=experiment.engine == "ours",
    )


def _stages(experiment: TrainingExperiment, units: list[StageUnit]) -> list[StageCompute]:
    layers = experiment.model.layers
    trained = [0] * (layers + 2)
    for unit in units:
        trained[unit.stage] += unit.length if unit.is_trainable else 0
    block: Callable[[int], StageCompute] = lru_cache(maxsize=None)(
        lambda length: block_compute(experiment, length)
    )
    return [
        embedding_compute(experiment, trained[0]),
        *(block(length) for length in trained[1:-1]),
        head_compute(experiment, trained[-1]),
    ]


def _update_s(experiment: TrainingExperiment, unit: StageUnit) -> float:
    if not unit.is_trainable:
        return 0.0
    exact = max(4, ITEM_BYTES[experiment.dtype])
    elements = unit.length // experiment.degrees.optimizer
    return update_s(experiment.topology.device, elements, exact)


def _prediction(experiment: TrainingExperiment, times: Times) -> Prediction:
    topology, model = experiment.topology, experiment.model
    step_s = total_s(times)
    sequences = experiment.micro_batch * experiment.accumulation
    needed = sequences * model.model_flops(experiment.sequence)
    done = sequences * model.hardware_flops(experiment.sequence, recompute=experiment.recompute)
    peak = topology.device.peak_tflops.get(experiment.dtype)
    power, has = topology.device.power_w, topology.device.memory_bytes
    memory = predicted_memory(experiment)
    tflops = needed / step_s / _TERA
    return Prediction(
        step_s=step_s,
        split_s=_split(experiment, times),
        tokens_per_s=experiment.tokens_per_step / step_s,
        tflops=tflops,
        hardware_tflops=done / step_s / _TERA,
        mfu=None if peak is None else tflops / peak,
        bytes_per_step=expected_bytes(
            unit_sizes(experiment),
            experiment.degrees,
            experiment.transport,
            topology,
            num_ranks=experiment.ranks,
            items=element_bytes(experiment),
            accumulation=experiment.accumulation,
        ),
        memory_bytes={
            "weights": memory.weights,
            "secondary": memory.secondary,
            "gradients": memory.gradients,
            "optimizer": memory.optimizer,
            "errors": memory.errors,
            "gathered": memory.gathered,
            "activations": memory.activations,
        },
        peak_bytes=memory.total,
        fits=None if has is None else memory.total <= has,
        energy_j=None if power is None else power * experiment.ranks * step_s,
    )


def _split(experiment: TrainingExperiment, times: Times) -> dict[str, float]:
    """Name the waiting by the outermost level of what is waited for; leave out what is nothing."""
    moves, length = _moves(experiment), _any_length(experiment)
    waited = {
        "forward": moves.forward_gather(length),
        "backward": moves.kept_gather(length),
        "gradients": moves.reduction(length),
    }
    split: dict[str, float] = {}
    for cause, seconds in times.items():
        name = cause
        if cause in waited:
            name = f"waiting, {_outermost(experiment, waited[cause])}"
        split[name] = split.get(name, 0.0) + float(seconds)
    return {name: seconds for name, seconds in split.items() if seconds > 0 or name == "compute"}


def _outermost(experiment: TrainingExperiment, hops: list[Move]) -> str:
    levels = experiment.topology.level_names()
    return max((hop.level for hop in hops), key=levels.index, default=levels[0])


def _any_length(experiment: TrainingExperiment) -> int:
    """A length that all degrees divide: levels do not depend on it."""
    return max(experiment.degrees.degrees, default=1)


@dataclass(frozen=True)
class _Needs:
    """What the collectives of a training need of its machine.

    Attributes:
        levels: Names of the levels that they cross.
        quantizes: Whether any is quantized.
    """

    levels: tuple[str, ...]
    quantizes: bool


def _needs(experiment: TrainingExperiment) -> _Needs:
    moves, length = _moves(experiment), _any_length(experiment)
    network = Network(experiment.topology, experiment.ranks)
    hops = [hop for _, some in moves.of_step(unit_sizes(experiment)[0], 1) for hop in some]
    hops += [hop for some in (moves.reduction(length), moves.sync(length)) for hop in some]
    indices = {index for hop in hops for index, _ in network.crossed(hop.inner, hop.outer)}
    return _Needs(
        tuple(network.levels[index] for index in sorted(indices)),
        quantizes=any(hop.wire in BITS for hop in hops),
    )


def _machine_faults(experiment: TrainingExperiment) -> Iterator[Fault]:
    topology, device = experiment.topology, experiment.topology.device
    needs = _needs(experiment)
    names = [level.name for level in topology.levels]
    advice = f"write it in the file of {topology.name}, or measure it with watershed calibrate"
    for level in needs.levels:
        if topology.link(level) is None:
            is_inside = level in names
            where = f"levels.{names.index(level)}.link" if is_inside else "network"
            message = f"what joins ranks of a {level} is not known, but bytes move there; {advice}"
            yield Fault(path=f"topology.{where}", message=message, related=("partition",))
    if not device.rates.get(experiment.dtype):
        message = f"how fast it computes in {experiment.dtype} is not known; {advice}"
        yield Fault(path="topology.device.rates", message=message, related=("dtype",))
    if optimizer_rate(device) is None:
        message = f"neither it nor memory_gb_per_s is known; {advice}"
        yield Fault(path="topology.device.optimizer_gb_per_s", message=message)
    if needs.quantizes and quantize_rate(device) is None:
        message = f"neither it nor memory_gb_per_s is known, but payloads are quantized; {advice}"
        yield Fault(
            path="topology.device.quantize_gb_per_s", message=message, related=("transport",)
        )
