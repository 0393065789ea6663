"""The spool: names, what a worker holds, how the end and the silence of a server are told."""

import itertools
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.runtime.fence import UNFENCED
from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.spool import Claim, Done, Newest, ReturnName, Spool, Watch, waits_s

_COUNTS = st.integers(0, 10**9 - 1)


def _spool(path: Path, workers: int = 0) -> Spool:
    server = RunDirectory(path)
    spool = Spool(server)
    spool.open()
    for worker in range(workers):
        server.worker(worker).path.mkdir(parents=True)
    return spool


@given(st.builds(ReturnName, _COUNTS, _COUNTS, _COUNTS, _COUNTS))
def test_a_name_reads_back(name: ReturnName) -> None:
    """The name of a file says whose return it is, and nothing gets lost."""
    assert ReturnName.parse(str(name)) == name


@pytest.mark.parametrize(
    "name",
    [
        "w1-s2-v3.safetensors",
        "w1-s2-v3-t4.safetensors.json",
        ".w1-s2-v3-t4.safetensors.77",
        "not_finite-w1-s2-v3-t4.safetensors",
        "w-1-s2-v3-t4.safetensors",
        "w1-s2-v3-t4\n.safetensors",
        "w01-s2-v3-t4.safetensors",
        "w\u0661-s2-v3-t4.safetensors",
    ],
)
def test_other_names_are_no_returns(name: str) -> None:
    """Half-written files, reasons and strangers are not taken for returns."""
    assert ReturnName.parse(name) is None


def test_what_is_announced_is_read(tmp_path: Path) -> None:
    """There is nothing to pull at first; then what was announced last."""
    spool = _spool(tmp_path)
    assert spool.newest() is None

    for version in (0, 1):
        spool.announce(Newest(version=version, sha256=f"{version}"), UNFENCED)

    assert spool.newest() == Newest(version=1, sha256="1")


def test_a_torn_announcement_is_none(tmp_path: Path) -> None:
    """After a power cut the file may be empty; the workers wait until it is written again."""
    spool = _spool(tmp_path)
    (spool.path / "newest.json").write_bytes(b"")

    assert spool.newest() is None


def test_claims_and_waiting_returns_hold_their_versions(tmp_path: Path) -> None:
    """Held are the versions that are computed from, and those of returns not taken yet."""
    spool = _spool(tmp_path, workers=3)
    spool.claim(Claim(worker=0, sequence=4, version=12), UNFENCED)
    spool.claim(Claim(worker=2, sequence=0, version=7), UNFENCED)
    spool.claim(Claim(worker=2, sequence=1, version=9), UNFENCED)
    (spool.returns / str(ReturnName(2, 0, 7, 1))).touch()
    (spool.returns / ".w1-s0-v3-t1.safetensors.99").touch()

    held = spool.held_versions()

    assert held == {12, 9, 7}
    assert spool.claim_of(2) == Claim(worker=2, sequence=1, version=9)
    assert spool.claim_of(1) is None


def test_a_new_server_calls_the_end_back(tmp_path: Path) -> None:
    """A run that failed and is resumed has workers again."""
    spool = _spool(tmp_path)
    spool.finish(Done(status="failed", message="disk full"), UNFENCED)
    assert spool.done() == Done(status="failed", message="disk full")

    spool.open()

    assert spool.done() is None


def test_half_written_returns_go_with_their_own_worker(tmp_path: Path) -> None:
    """The next client of a worker removes what the killed one left, and nobody else's."""
    spool = _spool(tmp_path)
    for name in (".w1-s0-v3-t1.safetensors.99", ".w11-s0-v3-t1.safetensors.98"):
        (spool.returns / name).touch()

    spool.sweep(1)

    assert [path.name for path in spool.returns.iterdir()] == [".w11-s0-v3-t1.safetensors.98"]


def test_a_finished_spool_keeps_what_was_refused(tmp_path: Path) -> None:
    """Models and returns go; what somebody may want to look at stays."""
    spool = _spool(tmp_path)
    spool.taken_by(2).mkdir()
    taken = spool.taken_by(2) / "w0-s0-v3-t1.safetensors"
    for path in (spool.model(3), taken, spool.refused / "x.json"):
        path.touch()

    spool.clear()

    left = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(left) == ["alive", "x.json"]


def test_looks_become_rarer_up_to_half_a_second() -> None:
    """The first look comes after 20 ms, none later than half a second after the one before."""
    waits = list(itertools.islice(waits_s(), 20))

    assert waits[0] == 0.02
    assert waits == sorted(waits)
    assert waits[-1] == 0.5


def test_a_server_is_lost_when_it_is_silent_for_too_long(tmp_path: Path) -> None:
    """Signs of life count when they come, whatever the clocks say."""
    spool = _spool(tmp_path)
    watch = Watch(spool, patience_s=0.2)
    assert not watch.is_lost()

    time.sleep(0.25)
    spool.beat()
    alive = not watch.is_lost()
    time.sleep(0.25)

    assert alive
    assert watch.is_lost()
