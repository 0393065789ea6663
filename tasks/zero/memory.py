"""How much memory a rank has used."""

import resource
import sys

import torch


def peak_bytes(device: torch.device) -> int:
    """Return the most memory that this rank has used: of its GPU, or of its process.

    Args:
        device: What it computes with.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # KiB on Linux
