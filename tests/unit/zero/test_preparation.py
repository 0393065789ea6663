"""What a rank computes with."""

import pytest
import torch

from configs.training import TrainingExperiment
from tasks.runtime.errors import JobError
from tasks.zero.identity import all_ranks, ranks_here
from tasks.zero.preparation import device_of


def experiment(device: str = "auto") -> TrainingExperiment:
    """Return a training of eight ranks, on nodes of four."""
    fields = {"kind": "training", "ranks": 8, "topology": "mini", "device": device}
    return TrainingExperiment.model_validate(fields)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> "pytest.MonkeyPatch":
    """Let torch see as many GPUs as a test says, and choose any of them."""
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    return monkeypatch


def see(gpus: pytest.MonkeyPatch, number: int) -> None:
    """Let torch see a number of GPUs."""
    gpus.setattr(torch.cuda, "device_count", lambda: number)


def test_ranks_that_one_process_starts_have_a_gpu_each(gpus: pytest.MonkeyPatch) -> None:
    """They are on one machine, though they pretend to be on two: eight GPUs for eight ranks."""
    see(gpus, 8)

    devices = [device_of(experiment(), identity) for identity in ranks_here(experiment())]

    assert [device.index for device in devices] == list(range(8))


@pytest.mark.parametrize("number", [1, 4])
def test_fewer_gpus_than_ranks_of_a_machine_are_refused(
    gpus: pytest.MonkeyPatch, number: int
) -> None:
    """By every rank, with what to do; as many as a pretended node has do not suffice."""
    see(gpus, number)

    for identity in ranks_here(experiment()):
        with pytest.raises(JobError, match=rf"^{number} GPUs .* for 8 ranks.*set device: cpu"):
            device_of(experiment(), identity)
        assert device_of(experiment("cpu"), identity) == torch.device("cpu")


@pytest.mark.parametrize(("number", "expected"), [(1, [0] * 8), (4, [0, 1, 2, 3] * 2)])
def test_ranks_that_srun_starts_choose_by_their_number_on_the_node(
    gpus: pytest.MonkeyPatch, number: int, expected: list[int]
) -> None:
    """Or the only one, where each sees its own; three for four are too few."""
    see(gpus, number)
    found = [device_of(experiment(), identity).index for identity in all_ranks(experiment())]

    see(gpus, 3)

    assert found == expected
    with pytest.raises(JobError, match="3 GPUs are seen on node 1, for 4 ranks; ask Slurm"):
        device_of(experiment(), all_ranks(experiment())[5])
