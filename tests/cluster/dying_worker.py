"""A worker that is killed between sbatch and the report of where its job is.

python -m tests.cluster.dying_worker POOL
"""

import asyncio
import os
import signal
import sys
import time
from typing import Any

from prefect.client.schemas.objects import FlowRun

from tasks.prefect_slurm.pool import SlurmJobConfiguration, SlurmWorkerResult
from tasks.prefect_slurm.worker import SlurmWorker


class DyingWorker(SlurmWorker):
    """Ends by SIGKILL as soon as Slurm has its first job."""

    type = "dying"

    async def run(
        self,
        flow_run: FlowRun,
        configuration: SlurmJobConfiguration,
        task_status: Any = None,
    ) -> SlurmWorkerResult:
        """Submit, wait until Slurm has the job, and die."""
        del task_status
        result = await super().run(flow_run, configuration)
        run_dir = result.identifier.partition(":")[2]
        while not (entry := self._jobs.entry(run_dir)) or not entry.slurm_job:
            time.sleep(0.05)  # the loop stands still: nothing is reported
        os.kill(os.getpid(), signal.SIGKILL)
        return result


if __name__ == "__main__":
    asyncio.run(DyingWorker(work_pool_name=sys.argv[1]).start())
