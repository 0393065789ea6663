"""Nights one after the other, each a flow run: ``python -m tests.cluster.nights STUDY DATE ...``.

Runs go to ``runs`` in the working directory. A line for each night: the state's name and message.
"""

import sys
from datetime import date
from pathlib import Path
from typing import Any

from prefect import State

from flows.nightly import nightly


def main(study: str, *nights: str) -> None:
    """Run the nights.

    Args:
        study: Path of the study.
        nights: Their dates.
    """
    for night in nights:
        state: State[Any] = nightly(
            study, runs_dir=Path("runs"), night=date.fromisoformat(night), return_state=True
        )
        print(f"{state.name}: {state.message}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
