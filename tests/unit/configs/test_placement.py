"""What a training needs, compared with what its launcher gives."""

from typing import Any

import pytest

from configs.faults import faults_in
from configs.study import Study


def _faults(launcher: dict[str, Any], **experiment: Any) -> list[str]:
    raw = {
        "name": "s",
        "experiment": {"kind": "training"} | experiment,
        "launcher": {"kind": "slurm"} | launcher,
    }
    return [str(fault) for fault in faults_in(Study, raw)]


@pytest.mark.parametrize(
    ("launcher", "experiment"),
    [
        ({"nodes": 2, "tasks_per_node": 4}, {"ranks": 8}),
        ({}, {"ranks": 8}),
        ({"nodes": 2}, {"ranks": 8}),
        ({"tasks_per_node": 2, "pack": "single"}, {"ranks": 2}),
        (
            {"nodes": 48, "tasks_per_node": 8, "gpus_per_node": 8},
            {"ranks": 384, "topology": "frontier"},
        ),
        ({"tasks_per_node": 4, "gpus_per_node": 1}, {"ranks": 4, "device": "cpu"}),
    ],
)
def test_a_task_for_each_rank_on_whole_nodes_is_right(
    launcher: dict[str, Any], experiment: dict[str, Any]
) -> None:
    """An allocation that is the machine of the topology has no fault."""
    assert _faults(launcher, **experiment) == []


@pytest.mark.parametrize(
    ("launcher", "expected"),
    [
        (
            {"nodes": 1, "tasks_per_node": 1},
            "launcher.nodes: 1 nodes of 1 tasks do not match 8 ranks on nodes of 4 (mini); set "
            "launcher.nodes: 2 and launcher.tasks_per_node: 4, or leave both out, or change ranks "
            "or topology",
        ),
        (
            {"nodes": 1},
            "launcher.nodes: 1 nodes of 4 tasks do not match 8 ranks on nodes of 4 (mini); set",
        ),
        (
            {"nodes": 1, "tasks_per_node": 8},
            "launcher.nodes: 1 nodes of 8 tasks do not match 8 ranks on nodes of 4 (mini); set",
        ),
        (
            {"nodes": 2, "tasks_per_node": 2},
            "launcher.tasks_per_node: 2 nodes of 2 tasks do not match 8 ranks on nodes of 4 (mini)",
        ),
        (
            {"nodes": 2, "tasks_per_node": 4, "gpus_per_node": 2},
            "launcher.gpus_per_node: 2 GPUs are too few for the 4 ranks of a node, of which each",
        ),
    ],
)
def test_an_allocation_of_another_shape_is_refused(launcher: dict[str, Any], expected: str) -> None:
    """The message says what to set."""
    (fault,) = _faults(launcher)

    assert fault.startswith(expected)


def test_trainings_are_not_packed_into_one_allocation() -> None:
    """Ranks are the tasks of a job; an allocation's tasks are points."""
    faults = _faults({"pack": "allocation", "tasks_per_node": 4}, ranks=4)

    assert faults == [
        "launcher.pack: the ranks of a training are the tasks of its own job; use array or single"
    ]


def test_points_that_need_different_allocations_are_told() -> None:
    """One launcher cannot be right for 4 and for 8 ranks."""
    raw = {
        "name": "s",
        "experiment": {"kind": "training"},
        "grid": {"ranks": [4, 8]},
        "launcher": {"kind": "slurm", "nodes": 2, "tasks_per_node": 4},
    }

    (fault,) = faults_in(Study, raw)

    assert fault.message.startswith("2 nodes of 4 tasks do not match 4 ranks")
