"""What the workers of a round do: K local steps each, as one batched computation where that pays.

A worker pulls x_0, runs K steps of its own optimiser on minibatches drawn with replacement from its
own shard, and returns (x_K - x_0) / K. With the stochastic gradient g (clipped to ``clip_norm`` if
that is set), a step is:

    sgd       x -= lr * g
    momentum  v = beta * v + g; x -= lr * v
    fedprox   x -= lr * (g + mu * (x - x_0))        Li et al., MLSys 2020
    scaffold  x -= lr * (g - c_i + c)               Karimireddy et al., ICML 2020, option II:
              c_i becomes c_i - c + (x_0 - x_K) / (K * lr)

Dividing by K makes a mean of gradients where all count alike. With momentum and FedProx they do
not; what takes the place of K then is the server's (``algorithms.gradient_weights``).

Every draw is keyed by the worker and by how many returns it made before, so that a return does not
depend on which others are computed beside it.

Symbols: n returns of a round, K local steps, B samples a batch, P parameters, M workers, N samples.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from configs.algorithms import FedProx, WorkerMomentum
from configs.federated import FederatedExperiment
from configs.models import Execution, NetworkBase
from configs.models import Model as ModelConfig
from models.datasets import Dataset
from models.interface import Model
from models.partition import Shards
from tasks.federated.minibatches import Draws, Group, Minibatches
from tasks.federated.randomness import Stream

Ints = NDArray[np.int64]

BEST_EXECUTION: dict[tuple[str, str], Execution] = {
    ("mnist_cnn", "cpu"): "threads",
    ("cifar10_cnn", "cpu"): "threads",
    ("char_lstm", "cpu"): "threads",
    ("char_lstm", "cuda"): "looped",
}
"""What ``auto`` means, by model and device; everything else is batched.

Measured with tests/benchmarks on two cores, never at run time: the same seed must give the same
bits. CPU time of batched gradients over that of a loop: logistic regression 0.2; MNIST network 2 to
3, as vmapped convolutions become grouped ones; character LSTM 4 to 5, as the fused layer has no
batching rule (hence the last row; CUDA itself was not measured). Threads took 0.57 (MNIST), 0.45
(CIFAR-10) and 0.88 (LSTM) of the CPU time of a loop that uses both cores inside each operation, and
0.65, 0.56 and 0.97 of its wall time.
"""

_GROUP_BYTES = {"cpu": 1 << 23, "cuda": 1 << 30}
"""What a batched group of returns may touch in a step.

On a CPU a share of the last-level cache: for 20 returns of logistic regression on 28 x 28 images, a
second level's worth (3 returns) took 1.5 times, and one return at a time 2.7 times as long.
"""


class LocalTrainer:
    """Runs the local steps of the returns of a round.

    Args:
        model: What is trained.
        dataset: Its data, on the model's device.
        shards: Which worker holds which training samples.
        experiment: Gives the worker-side optimiser, the seed, and the model's execution:
            ``batched`` computes as many returns at once as fit into the cache; ``looped`` one after
            the other, each on all cores; ``threads`` one return a core at a time; ``auto`` is what
            ``BEST_EXECUTION`` says.
    """

    def __init__(
        self,
        model: Model,
        dataset: Dataset,
        shards: Shards,
        experiment: FederatedExperiment,
    ) -> None:
        device = dataset.train_inputs.device.type
        execution = _execution(experiment.model, device)
        self._model = model
        self._worker = experiment.worker
        self._draws = Draws(experiment.seed)
        self._minibatches = Minibatches(dataset, shards, experiment.worker.batch_size, self._draws)
        self._group_size = 1
        if execution == "batched":
            vectors = 3 * 4 * model.num_parameters  # the model, the pulled model, the gradient
            bytes_each = self._minibatches.num_bytes + vectors
            self._group_size = max(1, _GROUP_BYTES[device] // bytes_each)
        # One thread a core gives the same bits on any number of cores, and small products
        # are slower on two. A return alone has no other way to use the cores.
        self._intra_op_threads = torch.get_num_threads() if execution == "looped" else 1
        self._threads_alone = 1 if execution == "batched" else torch.get_num_threads()
        num_threads = torch.get_num_threads() if execution == "threads" else 1
        self._pool = (
            ThreadPoolExecutor(num_threads, initializer=torch.set_num_threads, initargs=(1,))
            if num_threads > 1
            else None
        )

    @property
    def batch_size(self) -> int:
        """Samples of one local step."""
        return self._minibatches.batch_size

    def train(self, start: Tensor, worker: Ints, sequence: Ints, num_steps: Ints) -> Tensor:
        """Compute the returns of a round.

        Args:
            start: The models that the workers pulled, x_0, shape (n, P); not changed.
            worker: Worker ids, shape (n,).
            sequence: How many returns each worker had made before, shape (n,).
            num_steps: K of each, at least 1, shape (n,).

        Returns:
            (x_K - x_0) / K, shape (n, P). A gradient that is not finite shows in it.
        """
        return self._train(start, worker, sequence, num_steps, correction=None)

    def train_until(
        self,
        start: Tensor,
        worker: int,
        sequence: int,
        *,
        most_steps: int,
        is_enough: Callable[[], bool],
    ) -> tuple[Tensor, int]:
        """Compute one return with as many local steps as there is time for.

        Args:
            start: The model that the worker pulled, x_0, shape (P,); not changed.
            worker: Worker id.
            sequence: As for ``train``.
            most_steps: Never more, at least 1.
            is_enough: Asked after each step; True ends the return.

        Returns:
            (x_K - x_0) / K, shape (P,), and K: what ``train`` gives for that K.
        """
        group = Group(start[None], np.array([worker]), np.array([sequence]), np.array([most_steps]))
        with _intra_op_threads(self._threads_alone):
            change, num_steps = self._walk(group, is_enough)
        return change.div_(num_steps)[0], num_steps

    def train_with_control(
        self,
        start: Tensor,
        worker: Ints,
        sequence: Ints,
        num_steps: Ints,
        *,
        server_control: Tensor,
        worker_control: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Compute the returns of a round with SCAFFOLD's control variates.

        Args:
            start: As for ``train``.
            worker: As for ``train``.
            sequence: As for ``train``.
            num_steps: As for ``train``.
            server_control: c at each pull, shape (n, P).
            worker_control: c_i of each return's worker, shape (n, P).

        Returns:
            The returns as of ``train``, and the changes of the c_i, both of shape (n, P).
        """
        correction = server_control - worker_control
        delta = self._train(start, worker, sequence, num_steps, correction=correction)
        return delta, -server_control - delta / self._worker.lr

    def _train(
        self,
        start: Tensor,
        worker: Ints,
        sequence: Ints,
        num_steps: Ints,
        *,
        correction: Tensor | None,
    ) -> Tensor:
        # Longest first: those of a group that still work are always its first rows.
        order = np.argsort(-num_steps, kind="stable")
        delta = torch.empty_like(start)

        def compute(rows: Ints) -> None:
            index = torch.from_numpy(rows).to(start.device)
            group = Group(
                start[index],
                worker[rows],
                sequence[rows],
                num_steps[rows],
                None if correction is None else correction[index],
            )
            change, _ = self._walk(group)
            delta[index] = change.div_(torch.from_numpy(group.num_steps).to(change)[:, None])

        groups = [order[i : i + self._group_size] for i in range(0, len(order), self._group_size)]
        with _intra_op_threads(self._intra_op_threads):
            if self._pool is None:
                for rows in groups:
                    compute(rows)
            else:
                for _ in self._pool.map(compute, groups):
                    pass
        return delta

    def _walk(
        self, group: Group, is_enough: Callable[[], bool] = lambda: False
    ) -> tuple[Tensor, int]:
        """Do the local steps of a group; return the changes x_K - x_0 and how many steps."""
        params = group.start.clone()
        gradients = torch.empty_like(params)
        velocity = torch.zeros_like(params) if isinstance(self._worker, WorkerMomentum) else None
        minibatches = self._minibatches.of(group)
        noises = self._noises(group)
        active, gradient = params, gradients
        num_steps = 0
        for inputs, targets in minibatches:
            if inputs.shape[0] < active.shape[0]:
                active, gradient = params[: inputs.shape[0]], gradients[: inputs.shape[0]]
            self._model.gradients(active, inputs, targets, out=gradient)
            if noises is not None:
                gradient.add_(next(noises))
            self._step(active, gradient, group, velocity)
            num_steps += 1
            if is_enough():
                break
        return params.sub_(group.start), num_steps

    def _step(
        self, params: Tensor, gradient: Tensor, group: Group, velocity: Tensor | None
    ) -> None:
        """Change the parameters of the active rows in place; the gradient is used up."""
        worker = self._worker
        num_active = params.shape[0]
        if worker.clip_norm is not None:
            # In float64 the norm of finite numbers is finite, so that none is clipped to zero.
            norms = torch.linalg.vector_norm(gradient, dim=1, keepdim=True, dtype=torch.float64)
            scales = worker.clip_norm / norms.clamp_(min=worker.clip_norm)
            gradient.mul_(scales.to(gradient.dtype))
        if isinstance(worker, FedProx):
            gradient.add_(params, alpha=worker.mu).sub_(group.start[:num_active], alpha=worker.mu)
        if group.correction is not None:
            gradient.add_(group.correction[:num_active])
        if velocity is not None and isinstance(worker, WorkerMomentum):
            gradient = velocity[:num_active].mul_(worker.beta).add_(gradient)
        params.sub_(gradient, alpha=worker.lr)

    def _noises(self, group: Group) -> Iterator[Tensor] | None:
        """Each step's gradient noise of the active rows; None for a model without any."""
        deviation = self._model.gradient_noise
        if deviation == 0:
            return None
        drawn = self._draws.by_step(
            Stream.GRADIENT_NOISE,
            group,
            self._model.num_parameters,
            lambda rng, _, shape: rng.standard_normal(shape),
        )
        return (noise.to(group.start.dtype).mul_(deviation) for noise in drawn)


def _execution(config: ModelConfig, device: str) -> Execution:
    asked = config.execution if isinstance(config, NetworkBase) else "auto"
    return BEST_EXECUTION.get((config.name, device), "batched") if asked == "auto" else asked


@contextmanager
def _intra_op_threads(number: int) -> Iterator[None]:
    """Let torch use so many threads inside one operation."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
