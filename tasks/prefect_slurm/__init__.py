"""The Prefect worker of type ``slurm``: a work pool whose flow runs are jobs of Slurm."""
