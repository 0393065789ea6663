"""A job that waits, then says when it ended; run as a module, or handed to submitit."""

import json
import sys
import time
from pathlib import Path


def wait_and_say(path: Path, seconds: float) -> None:
    """Wait, then write the time.

    Args:
        path: The file to write to.
        seconds: How long to wait.
    """
    time.sleep(seconds)
    path.write_text(repr(time.time()))


if __name__ == "__main__":
    job = Path(sys.argv[1])
    wait_and_say(job.with_name("ended"), json.loads(job.read_text())["seconds"])
