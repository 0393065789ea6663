"""SCAFFOLD where one worker is often in a buffer twice."""

from configs.federated import FederatedExperiment
from tasks.federated.simulation import assemble


def test_a_worker_that_is_often_there_twice_does_not_explode() -> None:
    """Its control variate follows its newest return; the model comes to rest at the optimum."""
    experiment = FederatedExperiment.model_validate(
        {
            "workers": 5,
            "dtype": "float64",
            "model": {"name": "quadratic", "centres": [0.0, 1.0, 2.0, 3.0, 4.0]},
            "algorithm": {"name": "afa_cd", "collect": 5},
            "worker": {"optimizer": "scaffold", "lr": 0.05},
            "local_steps": {"kind": "constant", "steps": 5},
            "arrivals": {"kind": "weighted", "weights": [0.9, 0.025, 0.025, 0.025, 0.025]},
        }
    )
    simulator = assemble(experiment).engine

    for _ in range(2_500):
        simulator.step()

    assert abs(float(simulator.state.model[0]) - 2.0) < 1e-6
