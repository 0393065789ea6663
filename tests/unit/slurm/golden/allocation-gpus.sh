#!/bin/bash
#
# digits seed=0 and 4 more
#
# Runs in every directory of runs.json beside this file, some at a time.
# Submitted by: sbatch job.sh
# Submitted once more it does nothing: the first submission has the run. To run what has
# stopped again, from its last checkpoint, give it a higher number:
#     WATERSHED_SUBMISSION=2 sbatch --job-name=ws-0b6e3bd6afb0-2 job.sh

#SBATCH --job-name=ws-0b6e3bd6afb0-1
#SBATCH --comment="digits seed=0 and 4 more"
#SBATCH --chdir=/data/runs/digits-20260101-120000/batches/abc
#SBATCH --output=/data/runs/digits-20260101-120000/batches/abc/slurm.out
#SBATCH --open-mode=append
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=2
#SBATCH --cpus-per-task=1
#SBATCH --gpus-per-node=a100:4
#SBATCH --time=1:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120

# A line that fails ends the job and is named. (No set -u: modules do not bear it.)
set -e
trap '' USR1  # sent before the time limit; what the job becomes, heeds it
trap 'echo "job.sh, line $LINENO, has failed: $BASH_COMMAND" >&2' ERR

# Threads; what follows may set others.
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
export MKL_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"

# The code: what stands in the directory of the job is not imported.
export PYTHONPATH=/data/runs/digits-20260101-120000/code/0123456789ab${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

cd -- /data/runs/digits-20260101-120000/batches/abc
exec /opt/venv/bin/python -S -m tasks.runtime.wrapper \
    --submission "${WATERSHED_SUBMISSION:-1}" \
    --runs /data/runs/digits-20260101-120000/batches/abc/runs.json --parallel 2 \
    --requeue \
    -- \
    srun --export=ALL --exact --nodes=1 --ntasks=1 --cpus-per-task=1 --mem=0 --gpus-per-node=a100:2 \
    /opt/venv/bin/python -m tasks.federated.simulate_job
