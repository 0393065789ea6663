"""What the engine keeps, saves and gives away: errors, memory, process groups, the model."""

import gc
from collections.abc import Callable
from contextlib import closing, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import distributed as dist

from configs.sharding import ROWS
from configs.training import TrainingExperiment
from configs.training_memory import predicted_memory
from configs.transport import Transport
from models.gpt import GptStages, build_gpt
from tasks.zero.costs.units import unit_sizes
from tasks.zero.engine import DTYPES, Engine
from tasks.zero.engines import build_engine
from tasks.zero.sharded_state import load_state, saved_tensors
from tasks.zero.traffic import ElementBytes, Moves
from tests.ranks import RankPool
from tests.unit.zero.engine_runs import (
    CPU,
    load_and_train,
    micro_batches,
    tiny,
    train,
    train_and_save,
)

Ranks = Callable[[int], RankPool]


def in_four_bits(row: str, **transport: Any) -> TrainingExperiment:
    """Return an experiment of five steps whose gradients are quantized."""
    fields = {"gradients": "int4", "sync": "int4", "error_feedback": True} | transport
    return tiny(partition=row, transport=fields, dtype="float32", steps=5)


@pytest.mark.parametrize("row", ["zero_topo", pytest.param("ddp", marks=pytest.mark.slow)])
def test_errors_of_quantization_are_continued(ranks: Ranks, tmp_path: Path, row: str) -> None:
    """With error feedback, too, a continued training has the losses of an undisturbed one.

    Also where replicas are summed. Without it losses are others, and bytes are the same.
    """
    experiment = in_four_bits(row)

    whole = ranks(8).run(train, experiment)[0]
    ranks(8).run(train_and_save, experiment, 2, str(tmp_path))
    rest = ranks(8).run(load_and_train, experiment, 2, str(tmp_path))[0]
    without = ranks(8).run(train, in_four_bits(row, error_feedback=False))[0]

    assert rest.losses == whole.losses[2:]
    assert without.losses[2:] != whole.losses[2:]
    assert without.reports[-1].received_bytes == whole.reports[-1].received_bytes


def load_and_listen(
    rank: int, num_ranks: int, experiment: TrainingExperiment, steps: int, directory: str
) -> str:
    """Load and train to the end; return what was said."""
    with redirect_stdout(StringIO()) as said:
        trained = load_and_train(rank, num_ranks, experiment, steps, directory)
    assert len(trained.losses) == experiment.steps - steps
    return said.getvalue()


def test_errors_of_other_blocks_are_dropped(ranks: Ranks, tmp_path: Path) -> None:
    """As those of other ranks: the training goes on without them, and rank 0 says so."""
    with_32, with_64 = (in_four_bits("zero3", block_size=size) for size in (32, 64))

    ranks(8).run(train_and_save, with_32, 2, str(tmp_path))
    said = ranks(8).run(load_and_listen, with_64, 2, str(tmp_path))

    assert said[0].startswith("the errors of quantization begin at zero: ")
    assert said[1:] == [""] * 7


def continue_without_drawing(rank: int, num_ranks: int, experiment: TrainingExperiment) -> None:
    """Make an engine for a checkpoint where no number can be drawn."""
    del rank, num_ranks
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("numpy.random.SeedSequence", None)
        build_engine(experiment, CPU, is_continued=True).close()
        with pytest.raises(TypeError):
            build_engine(experiment, CPU)


def test_what_a_checkpoint_brings_is_not_drawn(ranks: Ranks) -> None:
    """Of billions of parameters that takes each rank minutes."""
    ranks(2).run(continue_without_drawing, tiny(ranks=2, partition="zero3"))


def exported(
    rank: int, num_ranks: int, experiment: TrainingExperiment, directory: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Train two steps; return the weights as exported, and as the optimizer has them."""
    del num_ranks
    with closing(build_engine(experiment, CPU)) as engine:
        for step in range(2):
            engine.train_step(micro_batches(experiment, step, rank), 1e-2)
        engine.begin_save(Path(directory)).wait()
        weights = dict(engine.full_weights())
    masters: dict[str, object] = dict(saved_tensors(Path(directory), "master/"))
    load_state(Path(directory), masters)
    return weights, {name: value for name, value in masters.items() if isinstance(value, Tensor)}


@pytest.mark.parametrize(
    ("dtype", "row", "transport"),
    [
        ("float32", "zero3", {"weights": "int4", "block_size": 32}),
        ("float32", "zero_topo", {"weights": "int8", "refresh": "int8", "block_size": 32}),
        ("bfloat16", "zeropp", {"weights": "int8"}),
        ("bfloat16", "hsdp", {}),
    ],
)
def test_the_exported_model_is_that_of_the_optimizer(
    ranks: Ranks, tmp_path: Path, dtype: str, row: str, transport: dict[str, Any]
) -> None:
    """Bit for bit the master weights, though passes compute with what came over the wire.

    Frozen weights are as the seed made them, in the type that is trained in.
    """
    frozen = "stages.1.mlp.up."
    experiment = tiny(partition=row, dtype=dtype, transport=transport, frozen=[f"{frozen}*"])

    weights, masters = ranks(8).run(exported, experiment, str(tmp_path))[0]

    initial = build_gpt(experiment.model, experiment.sequence, experiment.seed)
    assert {value.dtype for value in weights.values()} == {torch.float32}
    for name, first in initial.named_parameters():
        if name.startswith(frozen):
            assert torch.equal(weights[name], first.to(DTYPES[dtype]).float())
    for key, master in masters.items():
        _, unit, kind = key.split("/")
        of_kind = [
            value.flatten()
            for name, value in weights.items()
            if name.startswith(f"{unit}.")
            and not name.startswith(frozen)
            and (value.dim() > 1) is (kind == "matrices")
        ]
        assert torch.equal(torch.cat(of_kind), master), key
    assert sum(map(torch.numel, masters.values())) == sum(
        value.numel() for name, value in weights.items() if not name.startswith(frozen)
    )


def held_bytes() -> int:
    """Return the bytes of all tensors of this process."""
    # Looked at by their types: some modules warn of whoever touches what they have for old names.
    tensors = [one for one in gc.get_objects() if issubclass(type(one), Tensor)]
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage() for one in tensors}
    return sum(storage.nbytes() for storage in storages.values())


def held_at_the_update(
    rank: int, num_ranks: int, experiment: TrainingExperiment
) -> tuple[int, int]:
    """Train two steps; return the bytes that were added until the last update, and the states'."""
    del num_ranks
    held: list[int] = []

    class Watched(Engine):
        def _update(self, grad_norm: float, scale: float, lr: float) -> None:
            super()._update(grad_norm, scale, lr)
            held.append(held_bytes())

    gc.collect()
    before = held_bytes()
    with torch.device("meta"):
        model = GptStages(experiment.model, experiment.sequence)
    with closing(Watched(experiment, model, CPU)) as engine:
        for step in range(2):
            engine.train_step(micro_batches(experiment, step, rank), 1e-3)
        return held[-1] - before, engine.state_bytes


@pytest.mark.slow
@pytest.mark.parametrize("row", ["zero_topo", "hsdp"])
def test_errors_are_part_of_the_predicted_states(ranks: Ranks, row: str) -> None:
    """With feedback a rank keeps an INT8 error of each gradient, whole, and of sums: predicted so.

    Without them the prediction would be less by more than a byte a parameter.
    """
    model = {"layers": 2, "hidden": 64, "heads": 2, "vocabulary": 64}
    transport = {"gradients": "int4", "sync": "int4", "error_feedback": True}
    experiment = tiny(
        dtype="bfloat16", partition=row, model=model, sequence=8, steps=2, transport=transport
    )
    predicted, parameters = predicted_memory(experiment), experiment.model.num_parameters
    padding = sum(unit.length for unit in unit_sizes(experiment)) / parameters

    found = ranks(8).run(held_at_the_update, experiment)

    assert predicted.errors > parameters
    for _, states in found:
        assert states == pytest.approx(padding * predicted.states, rel=2e-3)


@pytest.mark.parametrize(
    "row", ["zero_topo", pytest.param("hfsdp", marks=pytest.mark.slow), "zero1"]
)
def test_an_update_needs_no_more_than_the_states(ranks: Ranks, row: str) -> None:
    """In bfloat16, too: sums and refreshed weights take no memory besides what is predicted.

    That would be 6 bytes a parameter of the optimizer's shard; a unit's share of it may be there.
    """
    model = {"layers": 12, "hidden": 64, "heads": 2, "vocabulary": 64}
    experiment = tiny(dtype="bfloat16", partition=row, model=model, sequence=8, steps=2)
    predicted = predicted_memory(experiment).states

    found = ranks(8).run(held_at_the_update, experiment)

    more = 6 * experiment.model.num_parameters // experiment.degrees.optimizer
    for held, states in found:
        assert states == pytest.approx(predicted, rel=2e-3)  # units are padded
        assert held - states < more / 4


def made_groups(rank: int, num_ranks: int, experiment: TrainingExperiment) -> int:
    """Count the process groups that an engine has all ranks make."""
    del rank, num_ranks
    made: list[object] = []
    plain = dist.new_group

    def count(*arguments: Any, **named: Any) -> Any:
        made.append(arguments)
        return plain(*arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "new_group", count)
        build_engine(experiment, CPU).close()
    return len(made)


@pytest.mark.parametrize("row", [row for row in ROWS if row != "mics"])  # it is hsdp
def test_only_groups_that_move_something_are_made(ranks: Ranks, row: str) -> None:
    """Those of the closed form's hops, in each lane, and one of all ranks for scalars."""
    experiment = tiny(partition=row)
    items = ElementBytes(weights=8, sums=8, optimizer=24)
    moves = Moves(experiment.degrees, Transport(), experiment.topology, 8, items)
    gathers = (moves.forward_gather, moves.kept_gather, moves.refresh)
    reductions = (moves.reduction, moves.sync, moves.all_reduction)
    lanes = [
        {(hop.inner, hop.outer) for conversion in some for hop in conversion(8 * 256)}
        for some in (gathers, reductions)
    ]
    lanes[1].add((1, 8))

    made = ranks(8).run(made_groups, experiment)

    assert made == [sum(8 // outer * inner for hops in lanes for inner, outer in hops)] * 8
