"""The flow ``plan-training``: the command ``watershed plan-training`` as a form of Prefect's."""

from typing import Annotated, Literal

from prefect import State, flow
from prefect.states import Completed
from pydantic import Field

from configs.base import Fault
from configs.form_words import GptName
from configs.topology import Dtype
from flows.parameters import NamedTopology, titled
from flows.plan_cautions import cautions, without_latency
from flows.plan_files import plan_text
from flows.plan_tables import LEGEND, ROUNDS, as_cells, headlines, ranked, reasons
from flows.plan_wishes import PREFETCH, read_wish
from flows.resolving import refused
from tasks.steps.artifacts import SHOWN
from tasks.zero.planner import plan
from tasks.zero.planning.plans import Plan, PlanError, Wish
from tasks.zero.planning.space import num_rounded

TABLE_KEY = "training-plan"
TEXT_KEY = "training-plan-why"
_FIELDS = {"ranks": "devices"}
"""Field of a fault -> the parameter that sets it."""


@flow(name="plan-training")
def plan_training_flow(
    model: Annotated[GptName, titled("Model")] = "gpt-20b",
    topology: Annotated[NamedTopology, titled("Topology")] = "frontier",
    devices: Annotated[int, Field(ge=1, le=1_000_000), titled("Devices")] = 384,
    batch_tokens: Annotated[str, Field(min_length=1), titled("Batch tokens")] = "4M",
    sequence: Annotated[int, Field(ge=2, le=1_000_000), titled("Sequence")] = 2048,
    dtype: Annotated[Dtype, titled("Floating-point type")] = "bfloat16",
    engine: Annotated[Literal["ours", "deepspeed", "fsdp2"], titled("Engine")] = "ours",
    memory: Annotated[str, titled("Memory")] = "",
    prefetch: Annotated[str, Field(min_length=1), titled("Prefetch")] = PREFETCH,
    exact: Annotated[bool, titled("Exact")] = False,  # noqa: FBT002  Prefect passes it by name
    top: Annotated[int, Field(ge=1, le=1000), titled("Partitions to list")] = 10,
) -> State[str]:
    """Find the partition, formats and micro-batch that train a model fastest on a machine.

    Every nested partition is searched, with every format on the wire, micro-batch and recomputation
    that fits in memory. All numbers are predictions of the cost model; nothing runs. The result is
    a table of the fastest, and a text that says why the first one wins, with the study in YAML that
    runs it.

    Args:
        model: Preset of the model.
        topology: The machine: a shipped one, or the path of a file.
        devices: N: devices, one rank each.
        batch_tokens: Tokens of a train step, such as 4M or 512K.
        sequence: s: tokens of one sequence.
        dtype: Type of weights and activations.
        engine: What trains: Watershed's engine, DeepSpeed, or FSDP2.
        memory: To use of a device, such as 60GB. Empty: all it has.
        prefetch: Blocks whose weights are gathered ahead, to choose from, such as 0,1,2.
        exact: Round nothing on the wire: no INT8, no INT4.
        top: Partitions to list.

    Returns:
        Completed, with the study in YAML as the result; Failed, if there is no such plan: the
        message says which parameter is at fault, and why.
    """
    raw = {
        "model": model,
        "topology": topology,
        "ranks": devices,
        "sequence": sequence,
        "dtype": dtype,
        "engine": engine,
    }
    try:
        wish = read_wish(raw, batch_tokens, memory or None, prefetch, is_exact=exact, top=top)
        found = plan(wish)
    except PlanError as error:
        return refused([_named(fault) for fault in error.faults])
    text = plan_text(f"{model}-planned", topology, wish, found)
    best = found.best
    SHOWN.table([dict(as_cells(one)) for one in ranked(found)], LEGEND, TABLE_KEY)
    SHOWN.markdown(
        told_plan(wish, found, text), "Why the best one wins, and how to run it.", TEXT_KEY
    )
    links = ", on links without latency" if without_latency(wish) else ""
    message = f"{best.tokens_per_s:,.0f} tokens/s with {as_cells(best)['f | b | g | o']} "
    message += f"(predicted{links})"
    return Completed(message=message, data=text)


def _named(fault: Fault) -> Fault:
    """Name a fault after the parameter that it comes from."""
    first, _, rest = fault.path.partition(".")
    path = _FIELDS.get(first, first) if not rest or first == "model" else fault.path
    return fault.model_copy(update={"path": path})


def told_plan(wish: Wish, found: Plan, text: str) -> str:
    """Return a plan in Markdown: what was searched, why the best one wins, and how to run it.

    Args:
        wish: What was planned.
        found: What was found.
        text: The study in YAML.
    """
    lines = ["# The fastest training", *headlines(wish, found)]
    lines += [f"**{caution}**" for caution in cautions(wish, found)]
    lines += ["## Why", *_listed(found)]
    if num_rounded(found.best.experiment.transport):
        lines.append(ROUNDS)
    lines += ["## The study", "Save it as a file; `watershed run FILE` runs it.", _fenced(text)]
    return "\n\n".join(lines)


def _listed(found: Plan) -> list[str]:
    return ["\n".join(_item(reason) for reason in reasons(found))]


def _item(reason: str) -> str:
    return f"  - {reason.strip()}" if reason.startswith(" ") else f"- {reason}"


def _fenced(text: str) -> str:
    return f"```yaml\n{text}```"
