"""Where no real Slurm cluster can be started, its tests say why, in one line."""

import pytest

from tests.cluster.availability import judge


def test_root_with_slurm_runs_the_tests() -> None:
    """With all programs and as root the tests run, required or not."""
    verdicts = [judge(is_root=True, missing=[], is_required=required) for required in (False, True)]

    assert all(verdict.runs and not verdict.is_failure for verdict in verdicts)


@pytest.mark.parametrize(
    ("is_root", "missing", "words"),
    [
        (True, ["slurmctld"], ["slurmctld", "make cluster-packages", "mariadb-server"]),
        (False, [], ["root"]),
        (False, ["munged", "slurmd"], ["munged, slurmd", "make cluster-packages", "root"]),
    ],
)
@pytest.mark.parametrize("is_required", [False, True])
def test_what_is_absent_is_said_in_one_line(
    *, is_root: bool, missing: list[str], words: list[str], is_required: bool
) -> None:
    """The line names what is absent and how to get it; it is a failure only where required."""
    verdict = judge(is_root=is_root, missing=missing, is_required=is_required)

    assert not verdict.runs
    assert verdict.is_failure == is_required
    assert all(word in verdict.message for word in words)
    assert "\n" not in verdict.message
