"""Measure a machine, on all its ranks at once: links level by level, then what a rank computes."""

import platform
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import torch

from configs.calibration import Calibration
from tasks.runtime.atomic_files import as_json
from tasks.runtime.fence import Fence
from tasks.runtime.output import say
from tasks.runtime.records import Result
from tasks.runtime.run_directory import RunDirectory
from tasks.zero.calibrate_engine import engine_times
from tasks.zero.calibrate_file import RECORD, Calibrated
from tasks.zero.calibrate_fit import calibrated, with_engine
from tasks.zero.calibrate_links import LinkMeter
from tasks.zero.calibrate_rates import TOKENS, WIDTHS, RateMeter
from tasks.zero.calibrate_times import Clock
from tasks.zero.identity import Identity
from tasks.zero.preparation import device_of
from tasks.zero.rendezvous import join

_ALGORITHM = {"cpu": "direct", "cuda": "ring"}
"""Gloo's hops go straight from each rank to each other one; NCCL takes rings."""


def measure(
    directory: RunDirectory,
    calibration: Calibration,
    attempt: Path,
    fence: Fence,
    identity: Identity,
) -> Result:
    """Be one rank of a calibration.

    Args:
        directory: The run directory.
        calibration: What to measure.
        attempt: Directory of the attempt.
        fence: Of the attempt.
        identity: Of this rank.

    Returns:
        That it is done; rank 0 has written what was found.

    Raises:
        Interrupted: It was asked to stop.
        JobError: It cannot begin, for a reason that the user can act on.
        OSError: A file cannot be written.
        RuntimeError: Another rank is lost.
    """
    experiment = calibration.ranks_experiment
    device = device_of(experiment, identity)
    is_one_node = calibration.topology.node_ranks(calibration.ranks) == calibration.ranks
    join(identity, attempt, device=device, is_one_node=is_one_node, timeout_s=calibration.timeout_s)
    is_first = identity.rank == 0
    found = calibrate(calibration, device, say if is_first else lambda _: None)
    if is_first:
        fence.write(directory.path / RECORD, as_json(found.model_dump(mode="json")))
    return Result(status="finished")


def calibrate(
    calibration: Calibration, device: torch.device, tell: Callable[[str], None] = lambda _: None
) -> Calibrated:
    """Measure the machine; all ranks of the default process group call this.

    Args:
        calibration: What to measure.
        device: Of this rank.
        tell: Takes a line when a part is done.

    Returns:
        The machine with its numbers, on all ranks the same.
    """
    began, began_s = datetime.now().astimezone(), time.monotonic()
    topology, clock = calibration.topology, Clock(device, calibration.least_s)
    rates = RateMeter(device, calibration.dtype, clock)
    widths = sorted(calibration.hidden or WIDTHS[device.type])
    meter = LinkMeter(topology, device, clock, timeout=timedelta(seconds=calibration.timeout_s))
    links = {}
    for hop in meter.hops:
        tell(f"measuring links of level {hop.level}")
        compute = rates.passes(widths[len(widths) // 2], calibration.tokens)
        links[hop.level] = meter.measure(hop, compute)
    meter.close()  # not after an error, see ``training.train``
    tell("measuring blocks, memory, quantizers and the update")
    local_ranks = topology.node_ranks(calibration.ranks)
    measured = rates.measure(widths, calibration.tokens, local_ranks=local_ranks)
    made = calibrated(topology, links, measured, algorithm=_ALGORITHM[device.type])
    tell("measuring the engine itself")
    engine = engine_times(
        made,
        device,
        clock,
        ranks=calibration.ranks,
        dtype=measured.dtype,
        width=widths[0],
        tokens=calibration.tokens or TOKENS[device.type],
        timeout_s=calibration.timeout_s,
    )
    uname = platform.uname()
    return Calibrated(
        topology=with_engine(made, visit_s=engine.visit_s, collective_s=engine.collective_s),
        host=f"{uname.node} ({uname.system} {uname.release}, {uname.machine})",
        device=measured.name,
        dtype=measured.dtype,
        began=f"{began:%Y-%m-%d %H:%M %Z}",
        seconds=time.monotonic() - began_s,
    )
