"""Arrival processes: who returns when, how stale, after how many local steps."""

from tasks.federated.arrivals.registry import build

__all__ = ["build"]
