"""Anarchic federated averaging: algorithms, arrivals, and the simulator."""
