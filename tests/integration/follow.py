"""A follower in a process of its own, to be killed: ``follow.py RUN_DIRECTORY RUN_ID URI``."""

import sys
import time
from pathlib import Path

from tasks.runtime.run_directory import RunDirectory
from tasks.tracking.follower import RunFollower

follower = RunFollower(RunDirectory(Path(sys.argv[1])), sys.argv[2], sys.argv[3])
while True:
    followed = follower.poll()
    sys.stdout.write(f"{followed}\n")
    sys.stdout.flush()
    time.sleep(0.05)
