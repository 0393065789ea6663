"""The servers beside the flows: Prefect's, MLflow's, and a worker, started and watched."""
