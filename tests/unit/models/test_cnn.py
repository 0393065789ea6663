"""The convolutional networks of the authors' protocol."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.cnn import Cifar10Cnn, MnistCnn

SHAPES = {MnistCnn: (1, 28, 28), Cifar10Cnn: (3, 32, 32)}


def as_in_the_protocol(network: MnistCnn | Cifar10Cnn, images: Tensor) -> Tensor:
    """The protocol's order of layers: rectifier, then pooling."""
    hidden = functional.max_pool2d(functional.relu(network.conv1(images)), 2)
    hidden = functional.max_pool2d(functional.relu(network.conv2(hidden)), 2)
    hidden = functional.relu(network.fc1(hidden.flatten(1)))
    logits: Tensor = network.fc2(hidden)
    if isinstance(network, Cifar10Cnn):
        logits = network.fc3(functional.relu(logits))
    return logits


@pytest.mark.parametrize("make", [MnistCnn, Cifar10Cnn])
def test_rectifier_behind_pooling_changes_nothing(make: type[MnistCnn | Cifar10Cnn]) -> None:
    """Logits are those of the protocol's order of layers bit by bit, gradients to round-off."""
    torch.manual_seed(0)
    network = make()
    images = torch.randn(4, *SHAPES[make])
    targets = torch.arange(4)

    logits, expected = network(images), as_in_the_protocol(network, images)

    assert torch.equal(logits, expected)
    gradients, wanted = (
        torch.autograd.grad(functional.cross_entropy(output, targets), list(network.parameters()))
        for output in (logits, expected)
    )
    # Sums over fewer or more zeros may be taken in another order.
    torch.testing.assert_close(gradients, wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("make", "num_parameters"), [(MnistCnn, 582_026), (Cifar10Cnn, 940_362)])
def test_sizes_are_those_of_the_protocol(make: type[nn.Module], num_parameters: int) -> None:
    """Parameter counts are those of the layers written down by hand.

    MNIST: 32*26 + 64*(32*25+1) + 512*1025 + 10*513;
    CIFAR-10: 32*76 + 64*(32*25+1) + 512*1601 + 128*513 + 10*129.
    """
    assert sum(parameter.numel() for parameter in make().parameters()) == num_parameters


def test_cifar_network_is_initialised_by_the_protocol() -> None:
    """Convolutions are normal with the protocol's spread and zero biases, linear layers uniform."""
    torch.manual_seed(0)
    network = Cifar10Cnn()

    for convolution, out_channels in ((network.conv1, 32), (network.conv2, 64)):
        spread = math.sqrt(2 / (25 * out_channels))
        weight = convolution.weight.detach()
        # 2,400 and 51,200 draws: the deviation is known to 1.5 % (one sigma), the mean to 2 %.
        assert float(weight.std()) == pytest.approx(spread, rel=0.05)
        assert float(weight.mean()) == pytest.approx(0, abs=0.1 * spread)
        assert float(weight.abs().max()) > 2.5 * spread
        assert convolution.bias is not None
        assert not convolution.bias.any()
    for linear, fan_in in ((network.fc1, 1600), (network.fc2, 512), (network.fc3, 128)):
        bound = 1 / math.sqrt(fan_in)
        for parameter in (linear.weight, linear.bias):
            largest = float(parameter.detach().abs().max())
            # The largest of at least 10 uniform draws; below 0.5 only once in a thousand.
            assert 0.5 * bound < largest <= bound
        assert float(linear.weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)
