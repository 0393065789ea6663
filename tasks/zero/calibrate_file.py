"""What a calibration leaves behind: a record in its run directory, and the topology file."""

from pathlib import Path

import yaml
from pydantic import Field

from configs.base import Record
from configs.calibration import Calibration
from configs.topology import Topology
from tasks.runtime.atomic_files import replacement

RECORD = "calibrated.json"
"""In the run directory of a calibration."""


class Calibrated(Record):
    """What a calibration has measured, and where."""

    topology: Topology = Field(description="The machine with its numbers.")
    host: str = Field(description="Name, system and processor of rank 0's node.")
    device: str = Field(description="What a rank computes with.")
    dtype: str = Field(description="Of the blocks.")
    began: str = Field(description="When: date, time and zone.")
    seconds: float = Field(description="How long it took.")


def topology_text(found: Calibrated, calibration: Calibration, *, name: str, command: str) -> str:
    """Return the file of a measured machine.

    Args:
        found: What was measured.
        calibration: What was asked for.
        name: Of the machine.
        command: By which it was asked for.

    Returns:
        YAML that ``configs.topology.load_topology`` reads, with comments.
    """
    topology = found.topology.model_copy(update={"name": name})
    num_nodes = max(1, calibration.ranks // topology.ranks_per_node)
    tokens = f", {calibration.tokens} tokens each" if calibration.tokens else ""
    about = [
        f"Measured by: {command}",
        f"{found.began}, in {found.seconds:.0f} s; {calibration.ranks} ranks on {num_nodes} "
        f"node{'s' * (num_nodes > 1)} like {found.host};",
        f"each computes with {found.device}.",
        "",
        "All ranks measured at once, as they work in a training.",
        "gb_per_s, latency_us: of the engine's gathers and exchanges, least squares over sizes; a",
        "  shared link's bandwidth is that of all who share it. interference: computing that is",
        "  lost beside them.",
        f"rates: forward and backward passes of GPT blocks in {found.dtype}{tokens}.",
        "memory_gb_per_s, quantize, optimizer: bytes read and written.",
        "memory_bytes: what a training may use; of a GPU 93 %, as the rest is the runtime's.",
        "What is not measured, such as peak_tflops and power_w, is as it was.",
    ]
    head = "\n".join(f"# {line}".rstrip() for line in about)
    body = topology.model_dump(mode="json", exclude_defaults=True)
    return f"{head}\n{yaml.safe_dump(body, sort_keys=False, width=100, default_flow_style=None)}"


def write_topology(path: Path, text: str, *, force: bool) -> None:
    """Write a topology file: whole, or not at all.

    Args:
        path: Where to.
        text: Its content.
        force: Replace a file that is there.

    Raises:
        FileExistsError: There is one.
        OSError: It cannot be written.
    """
    if not force and path.exists():
        raise FileExistsError(f"{path} exists; take another name, or replace it with --force")
    with replacement(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
