"""Networks as models on flat vectors, one worker or many at once."""

import threading

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.modules import ModuleModel

CLASSES = 3


def make_network() -> nn.Module:
    """A small network with a convolution, as images are laid out in a way of their own."""
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, CLASSES))


def make_model(chunk_size: int = 256) -> ModuleModel:
    """A model of it in float64."""
    return ModuleModel("small", make_network, chunk_size=chunk_size, dtype=torch.float64)


def draw(num_workers: int, batch_size: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Parameters, images and targets."""
    model, rng = make_model(), torch.Generator().manual_seed(1)
    params = torch.stack([model.initial(rng) for _ in range(num_workers)])
    inputs = torch.randn(num_workers, batch_size, 2, 4, 4, generator=rng, dtype=torch.float64)
    return params, inputs, torch.randint(CLASSES, (num_workers, batch_size), generator=rng)


def network_of(params: Tensor) -> nn.Module:
    """The network with these parameters."""
    network = make_network().double()
    nn.utils.vector_to_parameters(params.clone(), network.parameters())
    return network


def gradient_of(params: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
    """What a plain training loop would compute."""
    network = network_of(params)
    return flat_gradient(functional.cross_entropy(network(inputs), targets), network)


def flat_gradient(loss: Tensor, network: nn.Module) -> Tensor:
    """The gradient as one vector."""
    parts = torch.autograd.grad(loss, list(network.parameters()))
    return torch.cat([part.flatten() for part in parts])


@pytest.mark.parametrize("num_workers", [1, 3])
def test_gradients_equal_a_plain_loop(num_workers: int) -> None:
    """One worker (views) and several (vmap) both get what autograd gives each alone."""
    params, inputs, targets = draw(num_workers)
    out = torch.full_like(params, torch.nan)
    before = params.clone()

    result = make_model().gradients(params, inputs, targets, out=out)

    expected = torch.stack([gradient_of(*row) for row in zip(params, inputs, targets, strict=True)])
    assert result is out
    torch.testing.assert_close(out, expected)
    assert torch.equal(params, before)


def test_threads_do_not_disturb_each_other() -> None:
    """Gradients computed in several threads at once are those computed one after the other."""
    model = make_model()
    params, inputs, targets = draw(8)
    rows = [slice(i, i + 1) for i in range(8)]
    expected = [model.gradients(params[r], inputs[r], targets[r]) for r in rows]
    found: dict[int, Tensor] = {}

    def compute(row: int) -> None:
        for _ in range(20):
            found[row] = model.gradients(params[rows[row]], inputs[rows[row]], targets[rows[row]])

    threads = [threading.Thread(target=compute, args=(row,)) for row in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(torch.equal(found[row], expected[row]) for row in range(8))


def test_evaluation_over_chunks_is_that_of_the_whole() -> None:
    """Weighted loss, gradient and accuracy do not depend on the chunks."""
    (params,), (inputs,), (targets,) = draw(1, batch_size=10)
    weights = torch.linspace(1, 2, 10, dtype=torch.float64)
    weights /= weights.sum()

    evaluation = make_model(chunk_size=4).evaluate(params, inputs, targets, weights)

    network = network_of(params)
    logits = network(inputs)
    loss = weights @ functional.cross_entropy(logits, targets, reduction="none")
    assert evaluation.loss == pytest.approx(float(loss.detach()))
    torch.testing.assert_close(evaluation.gradient, flat_gradient(loss, network))
    right = logits.argmax(dim=1) == targets
    assert evaluation.metrics["accuracy"] == pytest.approx(float(weights[right].sum()))


def test_metrics_are_plain_means() -> None:
    """Test loss and accuracy weigh all samples the same, over all chunks."""
    (params,), (inputs,), (targets,) = draw(1, batch_size=10)

    metrics = make_model(chunk_size=4).metrics(params, inputs, targets)

    logits = network_of(params)(inputs).detach()
    assert metrics["loss"] == pytest.approx(float(functional.cross_entropy(logits, targets)))
    assert metrics["accuracy"] == pytest.approx(
        float((logits.argmax(dim=1) == targets).double().mean())
    )


def test_initial_follows_the_generator_alone() -> None:
    """The same generator state gives the same model; the global one is neither used nor moved."""
    torch.manual_seed(5)
    before = torch.get_rng_state()

    first = make_model().initial(torch.Generator().manual_seed(1))
    torch.manual_seed(6)
    again = make_model().initial(torch.Generator().manual_seed(1))
    other = make_model().initial(torch.Generator().manual_seed(2))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.manual_seed(5)
    make_model()
    assert torch.equal(torch.get_rng_state(), before)


def test_initial_is_the_networks_own() -> None:
    """Flat parameters stand in the order of the network, drawn by its own constructor."""
    seed = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(1)))

    initial = make_model().initial(torch.Generator().manual_seed(1))

    torch.manual_seed(seed)
    expected = nn.utils.parameters_to_vector(make_network().parameters()).detach()
    assert torch.equal(initial, expected.double())


def test_buffers_are_refused() -> None:
    """Batch normalisation's running statistics would be lost, so such a network is refused."""
    with pytest.raises(ValueError, match="use GroupNorm instead of BatchNorm"):
        ModuleModel("normed", lambda: nn.BatchNorm1d(3))
