"""Where a flow run goes on that Prefect runs again."""

from pathlib import Path

import httpx
import pytest
from prefect.runtime import flow_run

from flows import points
from tasks.steps.flow_record import begin_flow_record, flow_record_path

_NOT_FOUND = r"^runs_dir: this flow run has run jobs before, but .* no directory of it"


def _is_attempt(monkeypatch: pytest.MonkeyPatch, number: int, *, has_begun_tasks: bool) -> None:
    monkeypatch.setattr(flow_run, "get_run_count", lambda: number)
    monkeypatch.setattr(points, "has_begun_tasks", lambda _: has_begun_tasks)


def test_a_retry_goes_on_in_the_directory_of_its_flow_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which it finds by the record there."""
    (tmp_path / "a").mkdir()
    begin_flow_record(tmp_path / "a", "one", "sqlite:///x")
    _is_attempt(monkeypatch, 2, has_begun_tasks=True)

    assert points._earlier_directory("one", tmp_path) == tmp_path / "a"


@pytest.mark.parametrize("number", [1, 2])
def test_an_attempt_before_which_none_had_jobs_makes_a_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The first; and a retry of one that failed before it made one."""
    _is_attempt(monkeypatch, number, has_begun_tasks=False)

    assert points._earlier_directory("one", tmp_path) is None


def test_a_retry_whose_directory_is_gone_makes_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its jobs would run twice; who wants that starts another flow run."""
    _is_attempt(monkeypatch, 2, has_begun_tasks=True)

    with pytest.raises(LookupError, match=_NOT_FOUND):
        points._earlier_directory("one", tmp_path)


def test_a_retry_of_which_prefect_tells_nothing_makes_no_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can be retried once more."""

    def away(_: str) -> bool:
        raise httpx.ConnectError("refused")

    _is_attempt(monkeypatch, 2, has_begun_tasks=False)
    monkeypatch.setattr(points, "has_begun_tasks", away)

    with pytest.raises(LookupError, match=r"^Prefect does not tell .*: refused; Retry$"):
        points._earlier_directory("one", tmp_path)


def test_a_record_of_another_version_is_told_with_what_to_do(tmp_path: Path) -> None:
    """Its path, what is wrong, and how to go on without it."""
    (tmp_path / "a").mkdir()
    begin_flow_record(tmp_path / "a", "one", "sqlite:///x")
    record = flow_record_path(tmp_path / "a")
    record.write_text(record.read_text().replace("comparison", "since_then"))

    with pytest.raises(LookupError) as told:
        points._earlier_directory("one", tmp_path)

    assert str(told.value).startswith(f"{record} has the field 'since_then', ")
    assert str(told.value).endswith(
        f"remove it to go on without it, in a new flow run whose study_dir is {tmp_path / 'a'}"
    )
