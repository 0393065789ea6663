#!/bin/bash
#
# digits seed=0
#
# Submitted by: sbatch job.sh
# Submitted once more it does nothing: the first submission has the run. To run what has
# stopped again, from its last checkpoint, give it a higher number:
#     WATERSHED_SUBMISSION=2 sbatch --job-name=ws-a8ae2aa51a22-2 job.sh

#SBATCH --job-name=ws-a8ae2aa51a22-1
#SBATCH --comment="digits seed=0"
#SBATCH --chdir=/data/runs/digits-20260101-120000/points/000
#SBATCH --output=/data/runs/digits-20260101-120000/points/000/slurm.out
#SBATCH --open-mode=append
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=1
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

cd -- /data/runs/digits-20260101-120000/points/000
exec /opt/venv/bin/python -S -m tasks.runtime.wrapper \
    --submission "${WATERSHED_SUBMISSION:-1}" \
    --run /data/runs/digits-20260101-120000/points/000 \
    --requeue \
    -- \
    srun --export=ALL --kill-on-bad-exit=1 --cpus-per-task=1 \
    --container-image=docker://python:3.11 --container-mounts=/data/runs/digits-20260101-120000/code/0123456789ab:/data/runs/digits-20260101-120000/code/0123456789ab,/data/runs/digits-20260101-120000/points/000:/data/runs/digits-20260101-120000/points/000,/sw:/sw \
    python3 -m tasks.federated.simulate_job
