"""A real worker: what it claims, computes and hands in, and when it ends."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.federated.client import Client, work
from tasks.federated.local_training import LocalTrainer
from tasks.federated.messages import read_return, write_model
from tasks.federated.problem import build_problem
from tasks.runtime.attempt import Claimant, claim
from tasks.runtime.fence import UNFENCED, Fence, Overtaken
from tasks.runtime.run_directory import RunDirectory
from tasks.runtime.spool import Claim, Done, Newest, Spool
from tasks.runtime.stopping import Interrupted, StopRequest
from tests.unit.federated.anarchic import HASH, make_run

WORKER = 1
MODEL = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)


def publish(spool: Spool, version: int = 0) -> None:
    """Publish a model as the server does."""
    digest = write_model(spool.model(version), MODEL, UNFENCED)
    spool.announce(Newest(version=version, sha256=digest), UNFENCED)


def make_client(
    server: RunDirectory, fence: Fence = UNFENCED, patience_s: float | None = None
) -> Client:
    """The client of worker 1."""
    job = server.worker(WORKER).read_client_job()
    if patience_s is not None:  # shorter than a configuration may have it: a copy is not validated
        arrivals = job.experiment.arrivals.model_copy(update={"server_patience_s": patience_s})
        experiment = job.experiment.model_copy(update={"arrivals": arrivals})
        job = job.model_copy(update={"experiment": experiment})
    return Client(job, Spool(server), build_problem(job.experiment), fence, token=1)


def open_spool(server: RunDirectory) -> Spool:
    """The server's spool, without a server."""
    spool = Spool(server)
    spool.open()
    return spool


def names_in(path: Path) -> list[str]:
    """What lies in a directory of the spool, whole."""
    return sorted(found.name for found in path.glob("[!.]*"))


def until(is_so: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline_s = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def run_client(client: Client, stop: StopRequest, done: list[Done] | None = None) -> None:
    """Let a client work; the end of the server goes into the list."""
    try:
        end = client.until_done(stop)
    except Interrupted:
        return
    if done is not None:
        done.append(end)


def test_asked_to_stop_it_hands_in_what_it_has(tmp_path: Path) -> None:
    """One step at least is done; the return is what a simulated worker of that name returns."""
    server = make_run(tmp_path)
    spool = open_spool(server)
    publish(spool, version=4)

    with pytest.raises(Interrupted):
        make_client(server).until_done(StopRequest(made_s=0.0))

    assert names_in(spool.returns) == ["w1-s0-v4-t1.safetensors"]
    header, delta = read_return(spool.returns / "w1-s0-v4-t1.safetensors", MODEL)
    assert (header.num_steps, header.partition, header.config_hash) == (1, "a", HASH)
    experiment = server.read_job().federated
    problem = build_problem(experiment)
    trainer = LocalTrainer(problem.model, problem.dataset, problem.shards, experiment)
    one = np.array([1])
    assert torch.equal(delta, trainer.train(MODEL[None], one * WORKER, one * 0, one)[0])
    assert spool.claim_of(WORKER) == Claim(worker=WORKER, sequence=0, version=4, partition="a")


def test_it_trains_for_its_budget(tmp_path: Path) -> None:
    """A return has as many steps as the time allows, and says when it began and ended."""
    arrivals = make_run(tmp_path).read_job().federated.arrivals.model_dump()
    server = make_run(tmp_path, arrivals=arrivals | {"budget_s": 0.2})
    spool = open_spool(server)
    publish(spool)
    stop = StopRequest()
    client = threading.Thread(target=run_client, args=(make_client(server), stop))
    client.start()

    until(lambda: bool(names_in(spool.returns)))
    stop.made_s = 0.0
    client.join()

    header, _ = read_return(spool.returns / names_in(spool.returns)[0], MODEL)
    assert header.num_steps > 1
    # A step of three numbers takes microseconds; the upper bound is for a machine that is busy.
    assert 0.2 <= header.returned_at_s - header.pulled_at_s < 2


def test_it_has_a_bound_of_steps(tmp_path: Path) -> None:
    """However long its budget is."""
    arrivals = make_run(tmp_path).read_job().federated.arrivals.model_dump()
    server = make_run(tmp_path, arrivals=arrivals | {"budget_s": 1e6, "max_steps": 7})
    spool = open_spool(server)
    publish(spool)
    stop = StopRequest()
    client = threading.Thread(target=run_client, args=(make_client(server), stop))
    client.start()

    until(lambda: bool(names_in(spool.returns)))
    stop.made_s = 0.0
    client.join()

    header, _ = read_return(spool.returns / names_in(spool.returns)[0], MODEL)
    assert header.num_steps == 7


def test_it_waits_until_its_last_return_is_taken(tmp_path: Path) -> None:
    """A slow server does not find a heap of old returns; the end of the server ends the wait."""
    server = make_run(tmp_path)
    spool = open_spool(server)
    publish(spool)
    done: list[Done] = []
    client = threading.Thread(target=run_client, args=(make_client(server), StopRequest(), done))
    client.start()

    until(lambda: bool(names_in(spool.returns)))
    time.sleep(0.3)  # thirty budgets
    assert names_in(spool.returns) == ["w1-s0-v0-t1.safetensors"]
    publish(spool, version=1)
    (spool.returns / "w1-s0-v0-t1.safetensors").unlink()
    until(lambda: bool(names_in(spool.returns)))
    assert names_in(spool.returns) == ["w1-s1-v0-t1.safetensors"]
    (spool.returns / "w1-s1-v0-t1.safetensors").unlink()
    until(lambda: bool(names_in(spool.returns)))
    spool.finish(Done(status="finished"), UNFENCED)
    client.join(timeout=20)

    assert names_in(spool.returns) == ["w1-s2-v1-t1.safetensors"]
    assert [end.status for end in done] == ["finished"]


def test_started_again_it_goes_on_with_the_next_number(tmp_path: Path) -> None:
    """What its predecessor has claimed is never used again, whether it was handed in or not."""
    server = make_run(tmp_path)
    spool = open_spool(server)
    publish(spool)
    spool.claim(Claim(worker=WORKER, sequence=6, version=0), UNFENCED)
    (spool.returns / ".w1-s6-v0-t1.safetensors.77").write_bytes(b"half")

    for _ in range(2):
        with pytest.raises(Interrupted):
            make_client(server).until_done(StopRequest(made_s=0.0))

    assert [path.name for path in sorted(spool.returns.iterdir())] == [
        "w1-s7-v0-t1.safetensors",
        "w1-s8-v0-t1.safetensors",
    ]


def test_a_model_that_is_not_what_was_announced_is_not_used(tmp_path: Path) -> None:
    """It waits until the file is whole."""
    server = make_run(tmp_path)
    spool = open_spool(server)
    publish(spool)
    good = spool.model(0).read_bytes()
    write_model(spool.model(0), MODEL + 1, UNFENCED)
    client = threading.Thread(target=run_client, args=(make_client(server), stop := StopRequest()))
    client.start()

    time.sleep(0.3)
    while_wrong = names_in(spool.returns)
    spool.model(0).write_bytes(good)
    until(lambda: bool(names_in(spool.returns)))
    stop.made_s = 0.0
    client.join()

    assert while_wrong == []


def test_without_a_sign_of_life_it_gives_up(tmp_path: Path) -> None:
    """A worker does not burn its allocation for a server that does not come back."""
    server = make_run(tmp_path)

    began_s = time.monotonic()
    with pytest.raises(Interrupted):
        make_client(server, patience_s=0.3).until_done(StopRequest())

    assert 0.3 < time.monotonic() - began_s < 5


def test_given_up_with_a_return_in_hand_it_hands_it_in(tmp_path: Path) -> None:
    """The server may come back yet."""
    server = make_run(tmp_path)
    spool = open_spool(server)
    publish(spool)

    with pytest.raises(Interrupted):
        make_client(server, patience_s=0.3).until_done(StopRequest())

    assert names_in(spool.returns) == ["w1-s0-v0-t1.safetensors", "w1-s1-v0-t1.safetensors"]


def test_an_overtaken_client_hands_nothing_in(tmp_path: Path) -> None:
    """When Slurm has started its successor, it ends without a return."""
    server = make_run(tmp_path)
    spool = open_spool(server)
    publish(spool)
    directory = server.worker(WORKER)
    old = Fence(directory.path, claim(directory, Claimant(submission=1, slurm_job="7")))
    claim(directory, Claimant(submission=1, slurm_job="7", restarts=1))

    with pytest.raises(Overtaken):
        make_client(server, old).until_done(StopRequest())

    assert list(spool.returns.iterdir()) == []
    assert spool.claim_of(WORKER) is None


@pytest.mark.parametrize("status", ["finished", "failed"])
def test_its_result_is_that_of_the_server(tmp_path: Path, status: str) -> None:
    """Workers of a server that has failed have failed for that reason."""
    server = make_run(tmp_path)
    spool = open_spool(server)
    spool.finish(Done.model_validate({"status": status, "message": "disk full"}), UNFENCED)
    claim(server.worker(WORKER), Claimant())

    result = work(server.worker(WORKER))

    assert result.status == status
    assert (result.reason, result.message) == (
        ("server", "the server has failed: disk full") if status == "failed" else ("", "")
    )
