"""The server algorithms, one file a paper; ``build`` makes the one that a configuration names."""

from tasks.federated.algorithms.registry import build

__all__ = ["build"]
