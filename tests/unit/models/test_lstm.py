"""The next-character network."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.lstm import CharLstmNetwork
from models.modules import ModuleModel


def make_network(layers: int = 2) -> CharLstmNetwork:
    """A small network of seven symbols."""
    return CharLstmNetwork(7, embedding=3, hidden=5, layers=layers)


def recurrence(network: CharLstmNetwork, symbols: Tensor) -> Tensor:
    """The textbook equations, step by step and layer by layer; gates in the order i, f, g, o."""
    steps = network.embed(symbols.long()).unbind(dim=1)
    for layer in range(network.lstm.num_layers):
        weight_ih, weight_hh, bias_ih, bias_hh = network.lstm.all_weights[layer]
        hidden = cell = symbols.new_zeros((len(symbols), 5), dtype=torch.float32)
        states = []
        for inputs in steps:
            gates = inputs @ weight_ih.T + bias_ih + hidden @ weight_hh.T + bias_hh
            i, f, g, o = gates.chunk(4, dim=1)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            hidden = o.sigmoid() * cell.tanh()
            states.append(hidden)
        steps = tuple(states)
    logits: Tensor = network.fc(steps[-1])
    return logits


def test_logits_follow_the_recurrence() -> None:
    """The logits are the linear layer on the last state of stacked LSTM layers."""
    torch.manual_seed(0)
    network = make_network()
    symbols = torch.randint(7, (4, 6), dtype=torch.uint8)

    logits = network(symbols)

    assert logits.shape == (4, 7)
    torch.testing.assert_close(logits, recurrence(network, symbols))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_workers_at_once_equal_workers_alone() -> None:
    """The gradients of several workers computed together are those of each alone."""
    model = ModuleModel("char_lstm", lambda: make_network(layers=1))
    rng = torch.Generator().manual_seed(0)
    params = torch.stack([model.initial(rng) for _ in range(2)])
    inputs = torch.randint(7, (2, 3, 6), generator=rng, dtype=torch.uint8)
    targets = torch.randint(7, (2, 3), generator=rng)

    together = model.gradients(params, inputs, targets)

    for row in range(2):
        rows = slice(row, row + 1)
        alone = model.gradients(params[rows], inputs[rows], targets[rows])
        torch.testing.assert_close(together[rows], alone)


def test_size_is_that_of_the_convention() -> None:
    """Embedding 8, two layers of 256 and 65 symbols have 815,945 parameters, counted by hand.

    65*8 + 4*256*(8 + 256 + 2) + 4*256*(256 + 256 + 2) + 65*257.
    """
    network = CharLstmNetwork(65, embedding=8, hidden=256, layers=2)

    assert sum(parameter.numel() for parameter in network.parameters()) == 815_945


def test_learns_to_repeat() -> None:
    """Gradient descent on 'predict the last symbol' lowers the loss to a fraction."""
    torch.manual_seed(0)
    network = make_network(layers=1)
    symbols = torch.randint(7, (64, 4), dtype=torch.uint8)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.05)
    losses = []

    for _ in range(100):
        loss = functional.cross_entropy(network(symbols), symbols[:, -1].long())
        parameters = list(network.parameters())
        for parameter, gradient in zip(
            parameters, torch.autograd.grad(loss, parameters), strict=True
        ):
            parameter.grad = gradient
        optimiser.step()
        losses.append(float(loss.detach()))

    assert losses[-1] < 0.1 * losses[0]
