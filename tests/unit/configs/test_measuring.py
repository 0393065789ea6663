"""Which points of a scaling study run, and why the others do not."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.checks import check_study
from configs.measuring import TOO_LARGE, points_to_run, why_not_run
from configs.scaling import ScalingStudy
from configs.sharding import ROWS
from configs.study import Study
from configs.training import TrainingExperiment
from configs.training_memory import least_ranks, predicted_memory

LARGE: dict[str, Any] = {
    "kind": "training",
    "model": "gpt-20b",
    "sequence": 2048,
    "topology": "frontier",
    "dtype": "bfloat16",
    "recompute": True,
    "device": "cuda",
}
SLURM = {"kind": "slurm"}


def _study(**fields: Any) -> Study:
    raw = {"kind": "scaling", "name": "s", "experiment": LARGE, "sizes": [8, 16], "launcher": SLURM}
    return ScalingStudy.model_validate(raw | fields).study()


@pytest.mark.parametrize(
    ("measure", "expected"),
    [("all", [16, 384]), ("none", []), ({"up_to": 16}, [16]), (16, [16]), (15, [])],
)
def test_what_is_asked_for_runs(measure: object, expected: list[int]) -> None:
    """All points, none, or those up to a number of ranks, a number alone included."""
    study = _study(sizes=[16, 384], measure=measure)

    found = [getattr(point.experiment, "ranks", None) for point in points_to_run(study)]

    assert found == expected


def test_what_does_not_fit_does_not_run_and_says_what_would() -> None:
    """20 B parameters on a node of 64 GB devices: ZeRO-3 fits; ZeRO-topo and DDP do not."""
    rows = {row: {"partition": row} for row in ("zero3", "zero_topo", "ddp")}
    study = _study(sizes=[8], strategies=rows)

    told = [why_not_run(study, point.experiment) for point in study.points()]

    assert told[0] == ""
    assert told[1].startswith(TOO_LARGE)
    assert told[1].endswith("; 16 devices would do with zero_topo")
    assert told[2].endswith("; no number of devices would do with ddp")


def test_a_point_that_does_not_fit_this_machine_names_its_share() -> None:
    """A hundred times 20 B parameters on no GPU: what is missing is memory here, not devices."""
    model = {"preset": "gpt-20b", "layers": 4400}
    study = _study(
        experiment=LARGE | {"model": model, "device": "cpu"}, sizes=[8], launcher="local"
    )

    (told,) = [why_not_run(study, point.experiment) for point in study.points()]

    assert told.endswith(" GB by launcher: local, its share of this machine's memory")


def test_a_point_that_does_not_fit_is_no_fault_of_a_scaling_study() -> None:
    """It is predicted; of a study with a grid alone it is refused."""
    study = _study(sizes=[8], strategies={"topo": {"partition": "zero_topo"}})
    alone = study.model_copy(update={"scaling": None})

    findings = check_study(study)
    assert findings.faults == []
    assert "topo · ranks=8, predicted only: does not fit: needs " in findings.notes[-1]
    assert [fault.path for fault in check_study(alone).faults] == ["model"]


@given(
    row=st.sampled_from(ROWS), has=st.integers(10**9, 10**12), layers=st.sampled_from([1, 8, 44])
)
def test_the_least_ranks_are_the_least(row: str, has: int, layers: int) -> None:
    """They fit, and the next smaller number does not."""
    experiment = TrainingExperiment.model_validate(
        LARGE | {"ranks": 8, "partition": row, "model": {"preset": "gpt-20b", "layers": layers}}
    )

    def fits(ranks: int) -> bool:
        return predicted_memory(experiment.model_copy(update={"ranks": ranks})).total <= has

    least = least_ranks(experiment, has)

    if least is None:
        assert not fits(8_000_000)
        return
    assert fits(least)
    smaller = least - 8 if least > 8 else least // 2
    assert smaller < 1 or not fits(smaller)


def test_the_least_ranks_fill_packages() -> None:
    """Three of twelve divide a node of Aurora, but not its packages of two: four are the least."""
    experiment = TrainingExperiment.model_validate(
        LARGE | {"ranks": 12, "partition": "zero_topo", "topology": "aurora"}
    )
    three = predicted_memory(experiment.model_copy(update={"ranks": 3})).total

    assert least_ranks(experiment, three) == 4
