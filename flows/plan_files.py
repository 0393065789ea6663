"""A plan as a study in YAML, which ``watershed check`` and ``watershed run`` take as it is."""

import json
import os
import re
import shlex
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import yaml

from configs.topology import is_topology_file
from flows.plan_cautions import cautions
from flows.plan_wishes import PREFETCH
from tasks.zero.planning.plans import Choice, Plan, Wish

_WARMUP = 10
_STEPS = 100
_LONGEST_NAME = 63
_WIDTH = 98


def write_plan(path: Path, text: str, *, may_replace: bool) -> None:
    """Write a file in one piece: a reader sees all of it, or what was there before.

    Args:
        path: The file.
        text: What to write.
        may_replace: Whether a file of that name may be replaced.

    Raises:
        FileExistsError: It is there, and may not be replaced.
        OSError: It cannot be written.
    """
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}.", delete=False, encoding="utf-8"
    ) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    try:
        Path(file.name).chmod(0o644)
        if may_replace:
            Path(file.name).replace(path)
        else:
            os.link(file.name, path)  # refuses where the file is there, even since a moment
    finally:
        Path(file.name).unlink(missing_ok=True)


def plan_text(name: str, topology: str, wish: Wish, plan: Plan) -> str:
    """Return the best training of a plan as a study in YAML, with comments.

    Args:
        name: What to call the study, such as the file's stem.
        topology: The machine, as the user named it.
        wish: What was planned.
        plan: What was found.
    """
    return "\n".join(_lines(name, topology, wish, plan)) + "\n"


def is_local(wish: Wish) -> bool:
    """Say whether a plan is for processes of this machine: devices without a peak are none.

    Args:
        wish: What was planned.
    """
    return not wish.base.topology.device.peak_tflops


def _lines(name: str, topology: str, wish: Wish, plan: Plan) -> Iterator[str]:
    best, base = plan.best.experiment, wish.base
    yield f"# Planned by: {_command(topology, wish)}"
    yield from _told(plan)
    for caution in cautions(wish, plan):
        yield from _comment(caution)
    yield f"name: {_study_name(name)}"
    where = f"{base.ranks} devices of {base.topology.name}"
    yield f"description: {base.model.preset} on {where}, planned."
    yield ""
    yield "experiment:"
    yield "  kind: training"
    yield f"  model: {base.model.preset}"
    yield "  data: arithmetic        # replace: {name: file, source: TEXT, tokenizer: FILE.json}"
    yield f"  sequence: {base.sequence}"
    yield f"  ranks: {base.ranks}"
    yield f"  topology: {_topology(topology)}"
    if base.engine != "ours":
        yield f"  engine: {base.engine}"
    yield f"  partition: {_flow(best.degrees.model_dump())}"
    yield f"  transport: {_flow(best.transport.model_dump(exclude_defaults=True)) or 'full'}"
    yield f"  micro_batch: {best.micro_batch}"
    yield f"  accumulation: {best.accumulation}"
    yield f"  recompute: {str(best.recompute).lower()}"
    yield f"  prefetch: {best.prefetch}"
    yield f"  dtype: {base.dtype}"
    yield f"  steps: {_STEPS}              # adapt, and the rate"
    yield f"  optimizer: {{warmup_steps: {_WARMUP}}}"
    yield f"  device: {'cpu' if is_local(wish) else 'cuda'}"
    yield f"  evaluate_sequences: {base.ranks}"
    yield ""
    yield from _launcher(wish)


def _told(plan: Plan) -> Iterator[str]:
    best, told = plan.best, plan.prediction
    tokens = best.experiment.tokens_per_step
    yield f"# Predicted: {best.tokens_per_s:,.0f} tokens/s, {best.step_s:.4g} s a train step of"
    yield f"#   {tokens:,} tokens, {best.tflops:.3g} TFLOPS and {_gigabytes(best)} a device."
    split = ", ".join(f"{cause} {seconds:.3g} s" for cause, seconds in told.split_s.items())
    yield from _comment(f"Of a step: {split}.")
    for row in plan.rows:
        share = best.tokens_per_s / row.choice.tokens_per_s
        yield f"# {share:.3f} times the speed of {' = '.join(row.names)} with {row.transport}."


def _comment(text: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent="# ",
        subsequent_indent="#   ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _gigabytes(choice: Choice) -> str:
    return f"{choice.memory_bytes / 1e9:.3g} GB"


def _launcher(wish: Wish) -> Iterator[str]:
    yield "launcher:"
    if is_local(wish):
        yield "  kind: local"
        return
    per_node = wish.base.topology.node_ranks(wish.base.ranks)
    yield "  kind: slurm"
    yield "  # account: abc123       # adapt, and partition and modules"
    yield f"  nodes: {wish.base.ranks // per_node}"
    yield f"  tasks_per_node: {per_node}"
    yield f"  gpus_per_node: {per_node}"
    yield "  cpus_per_task: 1        # adapt: the cores of a node, divided"
    yield '  time_limit: "2:00:00"'
    yield "  exclusive: true"


def _command(topology: str, wish: Wish) -> str:
    base, prefetch = wish.base, ",".join(map(str, wish.prefetches))
    told = [
        f"watershed plan-training --model {base.model.preset} --topology {shlex.quote(topology)}",
        f"--devices {base.ranks} --batch-tokens {wish.batch_tokens} --sequence {base.sequence}",
        f"--dtype {base.dtype} --memory {wish.memory_bytes}",
        *(["--exact"] if wish.is_exact else []),
        *([f"--prefetch {prefetch}"] if prefetch != PREFETCH else []),
        *([f"--engine {base.engine}"] if base.engine != "ours" else []),
    ]
    return " \\\n#   ".join(told)


def _topology(named: str) -> str:
    """Return a name as it is, and a file as an absolute path: the study may stand elsewhere."""
    path = Path(named).expanduser().resolve() if is_topology_file(named) else named
    return yaml.safe_dump(str(path), default_flow_style=True).removesuffix("\n...\n").strip()


def _flow(values: dict[str, object]) -> str:
    if not values:
        return ""
    return yaml.safe_dump(values, default_flow_style=True, sort_keys=False, width=200).strip()


def _study_name(stem: str) -> str:
    kept = re.sub(r"[^A-Za-z0-9._-]", "-", stem).lstrip("-._")
    return json.dumps(kept[:_LONGEST_NAME] or "plan")  # quoted: 384 would be a number
