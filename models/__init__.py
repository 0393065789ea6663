"""Networks and data sets; they know nothing of rounds, shards or Slurm."""
