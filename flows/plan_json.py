"""What ``watershed plan-training --json`` prints."""

from typing import Any

from flows.plan_cautions import at_peak, cautions, named, without_latency
from tasks.zero.planning.plans import Choice, Plan, Wish
from tasks.zero.planning.worse_network import LATENCY_US, SHARE


def as_json(wish: Wish, plan: Plan) -> dict[str, Any]:
    """Return a plan for machines: plain numbers, names and lists.

    Args:
        wish: What was planned.
        plan: What was found.
    """
    base = wish.base
    return {
        "model": base.model.model_dump(mode="json"),
        "topology": base.topology.name,
        "devices": base.ranks,
        "sequence": base.sequence,
        "dtype": base.dtype,
        "engine": base.engine,
        "memory_bytes": wish.memory_bytes,
        "prefetches": list(wish.prefetches),
        "batch_tokens": plan.best.experiment.tokens_per_step,
        "asked_batch_tokens": wish.batch_tokens,
        "num_partitions": plan.num_partitions,
        "num_candidates": plan.num_candidates,
        "num_fitting": plan.num_fitting,
        "num_timed": plan.num_timed,
        "possible_gain": plan.possible_gain,
        "cautions": cautions(wish, plan),
        "without_latency": without_latency(wish),
        "at_peak": at_peak(wish),
        "worse_network": _worse_network(plan),
        "best": _choice_json(plan.best) | {"prediction": plan.prediction.model_dump(mode="json")},
        "listed": [_choice_json(one) for one in plan.listed],
        "rows": [
            {"names": list(row.names), "formats": row.transport}
            | _choice_json(row.choice)
            | {"prediction": row.prediction.model_dump(mode="json")}
            for row in plan.rows
        ],
        "too_large": plan.too_large,
        "front": [_choice_json(one) for one in plan.front],
    }


def _worse_network(plan: Plan) -> dict[str, Any]:
    first = plan.best_when_worse()
    return {
        "levels": list(plan.worse_levels),
        "bandwidth_share": SHARE,
        "more_latency_us": LATENCY_US,
        "is_order_kept": first is plan.best,
        "best": _choice_json(first) | {"called": named(plan, first)},
    }


def _choice_json(choice: Choice) -> dict[str, Any]:
    one = choice.experiment
    return {
        "partition": one.degrees.model_dump(),
        "transport": one.transport.model_dump(),
        "micro_batch": one.micro_batch,
        "accumulation": one.accumulation,
        "recompute": one.recompute,
        "prefetch": one.prefetch,
        "step_s": choice.step_s,
        "worse_step_s": choice.worse_s,
        "tokens_per_s": choice.tokens_per_s,
        "tflops": choice.tflops,
        "memory_bytes": choice.memory_bytes,
    }
