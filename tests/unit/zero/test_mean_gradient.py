"""A gradient that is -1 everywhere stays so: what is summed is divided by the ranks, once.

ZeRO++'s two-hop sum, as DeepSpeed has it, is the ranks of a node times the mean for matrices and
the mean for vectors, and its formats put +absmax and -absmax to different places (dossier
ZeRO-topo, 2.6 and 5.2). Adam hides both; a norm does not.
"""

import itertools
import math
from collections.abc import Callable
from contextlib import closing

import pytest
import torch
from torch import Tensor

from configs.topology import load_topology
from configs.training import TrainingExperiment
from configs.transport import Transport, Wire
from models.gpt import build_gpt
from tasks.zero.collectives import Fabric
from tasks.zero.engine import Engine
from tasks.zero.layout import Chain
from tests.ranks import RankPool
from tests.unit.zero.engine_runs import CPU, TINY, micro_batches, tiny

Ranks = Callable[[int], RankPool]
BLOCK = 32
WIRES = ["full", "bfloat16", "int8", "int4"]


def reduce_constants(rank: int, num_ranks: int, wire: Wire, sign: float) -> set[float]:
    """Sum constants between all degrees, and over the replicas of each; return what came out.

    Returns:
        The sums, each divided by the number of ranks that have summed.
    """
    del rank
    found: set[float] = set()
    degrees, length = (2, 4, 8), 8 * 3 * BLOCK
    transport = Transport(block_size=BLOCK)
    with closing(
        Fabric(load_topology("mini"), Chain(num_ranks, degrees), transport, CPU)
    ) as fabric:
        for inner, outer in itertools.combinations((1, *degrees), 2):
            part = torch.zeros(length // outer)
            values = torch.full((length // inner,), sign)
            fabric.reduce(values, part, inner=inner, outer=outer, inside=wire, across=wire).wait()
            found |= set((part / (outer // inner)).tolist())
        for degree in (1, 2, 4):
            # One and a half blocks for each replica: the rest is padding.
            values = torch.full((num_ranks // degree * 3 * BLOCK // 2,), sign)
            fabric.all_reduce(values, degree=degree, inside=wire, across=wire).wait()
            found |= set((values / (num_ranks // degree)).tolist())
    return found


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_a_sum_of_constants_is_their_number(ranks: Ranks, wire: Wire, sign: float) -> None:
    """Exactly, in one hop or two, scattered or over replicas, in every format and of either sign.

    In INT8 and INT4 the largest value of a block is a whole number of steps, and so are sums of
    2, 4 and 8 of it.
    """
    assert ranks(8).run(reduce_constants, wire, sign) == [{sign}] * 8


def _minus_one(gradient: Tensor) -> Tensor:
    return torch.full_like(gradient, -1)


def norms_of_constants(
    rank: int, num_ranks: int, experiment: TrainingExperiment
) -> dict[str, tuple[float, int]]:
    """Train steps in which the gradient of every parameter is -1: of all, of matrices, of vectors.

    Returns:
        The norms of the mean gradients, and the numbers of what is trained.
    """
    del num_ranks
    batches = micro_batches(experiment, 0, rank)
    found: dict[str, tuple[float, int]] = {}
    for kind, dims in (("all", {1, 2}), ("matrices", {2}), ("vectors", {1})):
        model = build_gpt(experiment.model, experiment.sequence, experiment.seed)
        frozen = [name for name, p in model.named_parameters() if p.dim() not in dims]
        number = sum(p.numel() for p in model.parameters() if p.dim() in dims)
        of_kind = experiment.model_copy(update={"frozen": frozen})
        with closing(Engine(of_kind, model, CPU)) as engine:
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.register_hook(_minus_one)  # type: ignore[no-untyped-call]  # torch
            report = engine.train_step(batches, experiment.optimizer.lr)
        found[kind] = report.grad_norm, number
    return found


@pytest.mark.parametrize("wire", ["full", "int8", "int4"])
@pytest.mark.parametrize("row", ["ddp", "zeropp", "zero_topo"])
def test_the_engine_takes_the_mean_of_matrices_and_vectors(
    ranks: Ranks, row: str, wire: str
) -> None:
    """Where all gradients are -1, so is their mean: its norm is the root of the parameters' number.

    Of a model whose lengths eight ranks do not divide, with vectors shorter than that.
    """
    experiment = tiny(
        model=TINY | {"hidden": 6, "heads": 1, "rotary_fraction": 1, "vocabulary": 37},
        partition=row,
        transport={"gradients": wire, "sync": wire, "block_size": BLOCK},
        accumulation=2,
        dtype="float32",
    )

    of_ranks = ranks(8).run(norms_of_constants, experiment)

    for norms in of_ranks:
        assert list(norms) == ["all", "matrices", "vectors"]
        for norm, number in norms.values():
            # Squares are added in float32 and float64: rounding alone.
            assert norm == pytest.approx(math.sqrt(number), rel=1e-6)
