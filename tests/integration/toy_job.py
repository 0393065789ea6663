"""A job that says that it ran: one line in ``ran`` each time that it really begins."""

import os
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    job = Path(sys.argv[1])
    with job.with_name("ran").open("a") as file:
        file.write(f"{os.environ.get('SLURM_JOB_ID')}\n")
    time.sleep(0.2)
