"""One round of local training, and the plain PyTorch loop that does the same.

Symbols: M workers, S samples each, n returns a round, K local steps, B samples a batch.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from configs.algorithms import AfaCd, AfaCs
from configs.federated import FederatedExperiment
from configs.models import CharLstm, Cifar10Cnn, Execution, Logistic, MnistCnn, Model
from models.datasets import Dataset
from models.partition import Shards
from models.registry import build
from tasks.federated import algorithms, arrivals
from tasks.federated.local_training import LocalTrainer
from tasks.federated.simulator import Simulator

LR = 0.01
_PEAK_SIZE = 2048


class PlainMnistCnn(nn.Module):
    """The MNIST network as the protocol writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 5)
        self.conv2 = nn.Conv2d(32, 64, 5)
        self.fc1 = nn.Linear(1024, 512)
        self.fc2 = nn.Linear(512, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        hidden = functional.max_pool2d(functional.relu(self.conv1(images)), 2)
        hidden = functional.max_pool2d(functional.relu(self.conv2(hidden)), 2)
        hidden = functional.relu(self.fc1(hidden.flatten(1)))
        logits: Tensor = self.fc2(hidden)
        return logits


class PlainCifar10Cnn(nn.Module):
    """The CIFAR-10 network as the protocol writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 5)
        self.conv2 = nn.Conv2d(32, 64, 5)
        self.fc1 = nn.Linear(1600, 512)
        self.fc2 = nn.Linear(512, 128)
        self.fc3 = nn.Linear(128, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        hidden = functional.max_pool2d(functional.relu(self.conv1(images)), 2)
        hidden = functional.max_pool2d(functional.relu(self.conv2(hidden)), 2)
        hidden = functional.relu(self.fc1(hidden.flatten(1)))
        hidden = functional.relu(self.fc2(hidden))
        logits: Tensor = self.fc3(hidden)
        return logits


class PlainLogistic(nn.Module):
    """A linear layer on flattened images."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(784, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.fc(images.flatten(1))
        return logits


class PlainCharLstm(nn.Module):
    """The next-character network of LEAF's convention."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(NUM_SYMBOLS, 8)
        self.lstm = nn.LSTM(8, 256, 2, batch_first=True)
        self.fc = nn.Linear(256, NUM_SYMBOLS)

    def forward(self, symbols: Tensor) -> Tensor:
        """Return the logits."""
        states, _ = self.lstm(self.embed(symbols.int()))
        logits: Tensor = self.fc(states[:, -1])
        return logits


NUM_SYMBOLS, CONTEXT = 65, 80


@dataclass(frozen=True)
class Case:
    """A model and the size of its round.

    Attributes:
        config: The model.
        make_plain: The same network for the plain loop.
        num_returns: n.
        num_workers: M.
        num_samples: S, samples a worker.
        batch_size: B.
        num_steps: K.
        sample_flops: Floating-point operations of products in one gradient of one sample.
        image_shape: Of one input; the LSTM's has ``CONTEXT`` symbols instead.
    """

    config: Model
    make_plain: Callable[[], nn.Module]
    num_returns: int
    batch_size: int
    sample_flops: int
    num_workers: int = 100
    num_samples: int = 600
    num_steps: int = 5
    image_shape: tuple[int, int, int] = (1, 28, 28)

    @property
    def flops(self) -> float:
        """Floating-point operations of a round; those between products are not counted."""
        steps = self.num_returns * self.num_steps
        return float(steps * self.batch_size * self.sample_flops)


# Forward, and twice as much backward; the first layer needs no gradient of its inputs.
_CONV1, _CONV2, _LINEAR = 24 * 24 * 32 * 25, 8 * 8 * 64 * 32 * 25, 1024 * 512 + 512 * 10
_CNN_FLOPS = 2 * (2 * _CONV1 + 3 * _CONV2 + 3 * _LINEAR)
_COLOUR_CONV1, _COLOUR_CONV2 = 28 * 28 * 32 * 3 * 25, 10 * 10 * 64 * 32 * 25
_COLOUR_LINEAR = 1600 * 512 + 512 * 128 + 128 * 10
_COLOUR_CNN_FLOPS = 2 * (2 * _COLOUR_CONV1 + 3 * _COLOUR_CONV2 + 3 * _COLOUR_LINEAR)
_LSTM_FLOPS = 2 * 3 * (CONTEXT * 4 * 256 * ((8 + 256) + (256 + 256)) + 256 * NUM_SYMBOLS)

LOGISTIC = Case(Logistic(), PlainLogistic, 20, 64, 2 * 2 * 784 * 10)
MNIST_CNN = Case(MnistCnn(), PlainMnistCnn, 10, 64, _CNN_FLOPS)
# 100 samples a worker, 123 MB in all, are as far beyond any cache as the 500 of the data set.
CIFAR10_CNN = Case(
    Cifar10Cnn(),
    PlainCifar10Cnn,
    10,
    64,
    _COLOUR_CNN_FLOPS,
    num_samples=100,
    image_shape=(3, 32, 32),
)
CHAR_LSTM = Case(CharLstm(), PlainCharLstm, 10, 10, _LSTM_FLOPS)


_DATA = {
    "logistic": "mnist",
    "mnist_cnn": "mnist",
    "cifar10_cnn": "cifar10",
    "char_lstm": {"name": "shakespeare", "partition": "iid"},
}
"""What the configuration names; the samples themselves are random."""


class Round:
    """One round of a case, computed here and by the plain loop.

    Args:
        case: The case.
        execution: How the workers are computed; None for the configuration's own.
    """

    def __init__(self, case: Case, execution: Execution | None = None) -> None:
        config = case.config
        if execution is not None and not isinstance(config, Logistic):
            config = config.model_copy(update={"execution": execution})
        self._case = case
        self._dataset = _random_dataset(case)
        self._shards = _shards(case)
        self._experiment = FederatedExperiment(
            workers=case.num_workers,
            model=config,
            data=_DATA[config.name],
            worker={"lr": LR, "batch_size": case.batch_size},
            arrivals={"kind": "uniform", "max_delay": 10},
        )
        model = build(config, self._dataset, dtype=torch.float32)
        self._trainer = LocalTrainer(model, self._dataset, self._shards, self._experiment)
        rng = np.random.default_rng(0)
        self._worker = rng.permutation(case.num_workers)[: case.num_returns]
        self._num_steps = np.full(case.num_returns, case.num_steps)
        self._sequence = 0
        self._initial = model.initial(torch.Generator().manual_seed(0))
        self._start = self._initial.repeat(case.num_returns, 1)

    def ours(self) -> Tensor:
        """Compute the round with fresh minibatches."""
        self._sequence += 1
        sequence = np.full(len(self._worker), self._sequence)
        return self._trainer.train(self._start, self._worker, sequence, self._num_steps)

    def simulator(self, algorithm: AfaCd | AfaCs) -> Simulator:
        """Make a simulator whose every step is such a round, with arrivals and a server."""
        num_workers = self._case.num_workers
        experiment = self._experiment.model_copy(update={"algorithm": algorithm})
        return Simulator(
            arrivals.build(experiment),
            self._trainer,
            algorithms.build(algorithm, num_workers, experiment.worker),
            initial=self._initial,
            num_workers=num_workers,
            batch_size=self._case.batch_size,
        )

    def plain(self) -> Tensor:
        """Compute it worker by worker as any tutorial does."""
        case, dataset = self._case, self._dataset
        network, criterion = case.make_plain(), nn.CrossEntropyLoss()
        parameters = list(network.parameters())
        deltas = torch.empty_like(self._start)
        for row, worker in enumerate(self._worker.tolist()):
            _copy_into(parameters, self._start[row])
            optimiser = torch.optim.SGD(parameters, lr=LR)
            samples = torch.from_numpy(self._shards.of(worker))
            for _ in range(case.num_steps):
                batch = samples[torch.randint(len(samples), (case.batch_size,))]
                optimiser.zero_grad()
                loss = criterion(network(dataset.train_inputs[batch]), dataset.train_targets[batch])
                torch.autograd.backward(loss)
                optimiser.step()
            end = nn.utils.parameters_to_vector(parameters).detach()
            deltas[row] = (end - self._start[row]) / case.num_steps
        return deltas


def _copy_into(parameters: list[nn.Parameter], flat: Tensor) -> None:
    with torch.no_grad():
        parts = torch.split(flat, [parameter.numel() for parameter in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.copy_(part.view_as(parameter))


def _random_dataset(case: Case) -> Dataset:
    """Samples of the right shape; what they show does not matter to the time."""
    rng = torch.Generator().manual_seed(0)
    total = min(case.num_workers * case.num_samples, 60_000)
    if isinstance(case.config, CharLstm):
        inputs = torch.randint(NUM_SYMBOLS, (total, CONTEXT), generator=rng, dtype=torch.uint8)
        num_labels = NUM_SYMBOLS
    else:
        inputs, num_labels = torch.randn(total, *case.image_shape, generator=rng), 10
    targets = torch.randint(num_labels, (total,), generator=rng)
    return Dataset(inputs, targets, inputs[:1], targets[:1], targets.numpy(), num_labels)


def _shards(case: Case) -> Shards:
    """Random samples for each worker; beyond 60,000 they share them, to fit into memory."""
    total = min(case.num_workers * case.num_samples, 60_000)
    order = np.random.default_rng(0).permutation(total)
    offsets = np.arange(case.num_workers) * case.num_samples % total
    return Shards(order, offsets, np.full(case.num_workers, case.num_samples))


def with_workers(case: Case, num_workers: int) -> Case:
    """The same round with another number of registered workers."""
    return replace(case, num_workers=num_workers)


@dataclass(frozen=True)
class Times:
    """Best times of one round: what else runs on the machine only adds to them.

    Attributes:
        cpu_s: CPU time of the whole process.
        wall_s: Wall time.
    """

    cpu_s: float
    wall_s: float


def measure(functions: dict[str, Callable[[], object]], repetitions: int) -> dict[str, Times]:
    """Time functions in turn, so that a slow spell of the machine meets all of them alike.

    Args:
        functions: What to time, by name.
        repetitions: How often; one more round comes before and is not counted.

    Returns:
        Best times by name.
    """
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in functions}
    for _ in range(repetitions + 1):
        for name, function in functions.items():
            cpu_s, wall_s = time.process_time(), time.perf_counter()
            function()
            found[name].append((time.process_time() - cpu_s, time.perf_counter() - wall_s))
    return {
        name: Times(*(min(column) for column in zip(*times[1:], strict=True)))
        for name, times in found.items()
    }


def core_peak() -> float:
    """What one core does in a large float32 matrix product, in FLOP a second of CPU time."""
    left, right = torch.randn(2, _PEAK_SIZE, _PEAK_SIZE)
    times = measure({"product": lambda: left @ right}, 5)
    return 2 * _PEAK_SIZE**3 / times["product"].cpu_s
