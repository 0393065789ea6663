"""The same experiment on a CUDA device: same draws, same model to round-off."""

import pytest
import torch

from configs.federated import FederatedExperiment
from tasks.federated.simulation import assemble

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("worker", ["sgd", "momentum", "fedprox", "scaffold"])
@pytest.mark.parametrize(
    "algorithm",
    [
        "afa_cd",
        "afa_cs",
        "fedavg",
        "fedbuff",
        "fadas",
        "mifa",
        "ca2fl",
        "area",
        "rescaled_asgd",
    ],
)
def test_a_gpu_gives_the_model_that_a_cpu_gives(algorithm: str, worker: str) -> None:
    """After 20 rounds the models differ by no more than sums in another order explain."""
    models = []
    for device in ("cpu", "cuda"):
        experiment = FederatedExperiment.model_validate(
            {
                "data": "digits",
                "workers": 20,
                "dtype": "float64",
                "device": device,
                "algorithm": {"name": algorithm, "collect": 5},
                "worker": {"optimizer": worker, "lr": 0.05, "batch_size": 8},
                "local_steps": {"kind": "uniform", "low": 1, "high": 6},
                "arrivals": "event_driven",
            }
        )
        simulator = assemble(experiment).engine
        for _ in range(20):
            simulator.step()
        models.append(simulator.state.model.cpu())

    # Float64 has 16 digits; adaptive rates amplify the last ones of small gradients.
    assert torch.allclose(models[0], models[1], rtol=1e-8, atol=1e-9)
    assert models[0].abs().max() > 1e-3
