"""Machines and trainings for the tests of the cost model."""

from typing import Any

from configs.topology import Topology, load_topology
from configs.training import TrainingExperiment

SMALL = {"layers": 3, "hidden": 256, "heads": 8, "vocabulary": 1000}


def machine(**changes: Any) -> Topology:
    """Return two packages of two ranks a node; changes replace fields of the machine."""
    raw: dict[str, Any] = {
        "name": "test",
        "levels": [
            {"name": "package", "ranks": 2, "link": {"gb_per_s": 100.0}},
            {"name": "node", "ranks": 4, "link": {"gb_per_s": 40.0}},
        ],
        "network": {"gb_per_s": 5.0, "shared_by": 2, "latency_us": 10.0},
        "device": {
            "memory_bytes": 10**10,
            "memory_gb_per_s": 1000.0,
            "power_w": 200.0,
            "peak_tflops": {"bfloat16": 100.0},
            "rates": {
                "bfloat16": [{"gflops": 0.1, "tflops": 5.0}, {"gflops": 100.0, "tflops": 50.0}]
            },
        },
    }
    return Topology.model_validate(raw | changes)


def peak_frontier() -> Topology:
    """Return Frontier with links that reach their peaks, as the ideal times of the dossier have."""
    raw = load_topology("frontier").model_dump()
    for link in (*(level["link"] for level in raw["levels"]), raw["network"]):
        link |= {"efficiency": 1.0, "latency_us": 0.0}
    return Topology.model_validate(raw)


def training(**fields: Any) -> TrainingExperiment:
    """Return a training of 8 ranks; fields replace those of the base."""
    base = {
        "kind": "training",
        "model": SMALL,
        "sequence": 128,
        "ranks": 8,
        "topology": machine(),
        "partition": "zero_topo",
        "transport": "full",
        "micro_batch": 2,
        "accumulation": 2,
        "dtype": "bfloat16",
    }
    return TrainingExperiment.model_validate(base | fields)
