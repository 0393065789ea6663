"""What must hold of every server algorithm."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from configs.algorithms import (
    AfaCd,
    AfaCs,
    Algorithm,
    Area,
    Ca2fl,
    Fadas,
    FedAsync,
    FedAvg,
    FedBuff,
    Mifa,
    RescaledAsgd,
    Scaffold,
    ServerAdam,
    ServerMomentum,
    WorkerSgd,
)
from tasks.federated.algorithms import build
from tasks.federated.algorithms.interface import Returns, ServerState

NUM_WORKERS, NUM_PARAMETERS = 7, 5
ALGORITHMS: tuple[Algorithm, ...] = (
    AfaCd(),
    AfaCd(normalise=False, server=ServerMomentum()),
    AfaCs(),
    AfaCs(slots="seen", server=ServerAdam()),
    AfaCs(slots="wait", normalise=False),
    FedAvg(),
    FedAsync(),
    FedAsync(staleness="hinge"),
    FedBuff(),
    FedBuff(damp_stale=False),
    Fadas(),
    Mifa(),
    Ca2fl(),
    Area(),
    Area(server=ServerMomentum()),
    RescaledAsgd(),
)
IDS = [f"{c.name}-{c.server.name}-{i}" for i, c in enumerate(ALGORITHMS)]
every_algorithm = pytest.mark.parametrize("config", ALGORITHMS, ids=IDS)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def random_buffer(
    version: int, dtype: torch.dtype = torch.float64, *, num_returns: int = 4
) -> Returns:
    """Draw a buffer of different workers, a function of the version alone."""
    generator = torch.Generator().manual_seed(version)

    def integers(low: int, high: int) -> Tensor:
        return torch.randint(low, high, (num_returns,), generator=generator)

    def rows() -> Tensor:
        drawn = torch.randn(num_returns, NUM_PARAMETERS, generator=generator, dtype=torch.float64)
        return drawn.to(dtype)

    return Returns(
        worker=torch.randperm(NUM_WORKERS, generator=generator)[:num_returns],
        start=rows(),
        delta=rows(),
        num_steps=integers(1, 6),
        delay=integers(0, 9),
        returned_at_s=version + torch.arange(1, num_returns + 1).double() / num_returns,
        control=rows(),
    )


def permuted(returns: Returns, order: Tensor) -> Returns:
    """Return the same buffer in another order of arrival."""
    assert returns.control is not None
    return Returns(
        worker=returns.worker[order],
        start=returns.start[order],
        delta=returns.delta[order],
        num_steps=returns.num_steps[order],
        delay=returns.delay[order],
        returned_at_s=returns.returned_at_s[order],
        control=returns.control[order],
    )


def after(config: Algorithm, num_rounds: int, dtype: torch.dtype = torch.float64) -> ServerState:
    """Run rounds 0 .. num_rounds - 1 of random buffers, with SCAFFOLD's control variate."""
    algorithm = build(config, NUM_WORKERS, Scaffold())
    state = algorithm.init(torch.linspace(-1, 1, NUM_PARAMETERS, dtype=dtype))
    for version in range(num_rounds):
        state = algorithm.aggregate(state, random_buffer(version, dtype))
    return state


def assert_same_bits(first: ServerState, second: ServerState) -> None:
    """Compare two states with all their memory."""
    assert first.version == second.version
    assert torch.equal(first.model, second.model)
    assert first.memory.keys() == second.memory.keys()
    for name, tensor in first.memory.items():
        assert torch.equal(tensor, second.memory[name]), name


@every_algorithm
@pytest.mark.parametrize("num_rounds", [0, 3])
def test_same_inputs_give_the_same_bits(config: Algorithm, num_rounds: int) -> None:
    """Aggregation is a pure function of state and returns, from the first round and later on."""
    algorithm = build(config, NUM_WORKERS, Scaffold())
    state = after(config, num_rounds)
    twin = state.clone()

    first = algorithm.aggregate(state, random_buffer(9))
    second = algorithm.aggregate(twin, random_buffer(9))

    assert_same_bits(first, second)


@every_algorithm
def test_a_published_model_is_never_changed(config: Algorithm) -> None:
    """Workers hold earlier models and control variates, so no update may change one in place."""
    algorithm = build(config, NUM_WORKERS, Scaffold())
    state = after(config, 3)
    model, control = state.model.clone(), state.memory["control"].clone()

    following = algorithm.aggregate(state, random_buffer(3))

    assert torch.equal(state.model, model)
    assert torch.equal(state.memory["control"], control)
    assert not torch.equal(following.memory["control"], control)


@every_algorithm
def test_returns_are_not_changed(config: Algorithm) -> None:
    """The caller's buffer is read only."""
    algorithm = build(config, NUM_WORKERS, Scaffold())
    returns = random_buffer(3)

    algorithm.aggregate(after(config, 3), returns)

    untouched = random_buffer(3)
    for name in ("worker", "start", "delta", "num_steps", "delay", "returned_at_s", "control"):
        assert torch.equal(getattr(returns, name), getattr(untouched, name)), name


@every_algorithm
@every_dtype
def test_version_shape_and_dtype(config: Algorithm, dtype: torch.dtype) -> None:
    """Each update adds one to the version and keeps the form of the model and of all memory."""
    first, last = after(config, 0, dtype), after(config, 5, dtype)

    assert (first.version, last.version) == (0, 5)
    assert last.model.dtype == dtype
    assert last.model.shape == (NUM_PARAMETERS,)
    assert bool(last.model.isfinite().all())
    assert {name: (t.dtype, t.shape) for name, t in first.memory.items()} == {
        name: (t.dtype, t.shape) for name, t in last.memory.items()
    }


@every_algorithm
def test_a_clone_goes_on_as_the_original(config: Algorithm) -> None:
    """Everything that matters is in the state: a copy of it continues with the same bits."""
    original = build(config, NUM_WORKERS, Scaffold())
    restored = build(config, NUM_WORKERS, Scaffold())
    state = after(config, 4)
    copy = state.clone()

    for version in range(4, 10):
        state = original.aggregate(state, random_buffer(version))
    for version in range(4, 10):
        copy = restored.aggregate(copy, random_buffer(version))

    assert_same_bits(state, copy)


@every_algorithm
def test_order_inside_a_buffer_does_not_matter(config: Algorithm) -> None:
    """P11: returns of different workers may be permuted; not for FedAsync, which mixes in turn."""
    algorithm = build(config, NUM_WORKERS, Scaffold())
    state = after(config, 3)
    twin = state.clone()
    returns = random_buffer(3)

    in_order = algorithm.aggregate(state, returns)
    turned = algorithm.aggregate(twin, permuted(returns, torch.tensor([2, 0, 3, 1])))

    # Sums of four rows of size 10 in float64, in another order.
    same = torch.allclose(in_order.model, turned.model, rtol=0, atol=1e-13)
    assert same is (config.name != "fedasync")
    assert torch.allclose(in_order.memory["control"], turned.memory["control"], rtol=0, atol=1e-13)


@every_algorithm
def test_no_change_leaves_the_model(config: Algorithm) -> None:
    """If nobody has moved from the initial model, the server does not move either."""
    algorithm = build(config, NUM_WORKERS, WorkerSgd())
    initial = torch.linspace(-1, 1, NUM_PARAMETERS, dtype=torch.float64)
    state = algorithm.init(initial)
    returns = random_buffer(0)

    state = algorithm.aggregate(
        state,
        replace(
            returns,
            start=initial.expand(4, -1).clone(),
            delta=torch.zeros_like(returns.delta),
        ),
    )

    assert torch.equal(state.model, initial)


@every_algorithm
def test_control_variate_stays_the_mean_of_the_workers(config: Algorithm) -> None:
    """SCAFFOLD's c is the mean over all M of the workers' c_i, which begin at zero."""
    worker_control = torch.zeros(NUM_WORKERS, NUM_PARAMETERS, dtype=torch.float64)
    for version in range(6):
        returns = random_buffer(version)
        assert returns.control is not None
        worker_control.index_add_(0, returns.worker, returns.control)

    state = after(config, 6)

    assert torch.allclose(state.memory["control"], worker_control.mean(dim=0), rtol=0, atol=1e-14)


@every_algorithm
def test_control_variate_does_not_touch_the_model(config: Algorithm) -> None:
    """The wrapper adds its own memory and leaves the wrapped algorithm as it is."""
    bare = build(config, NUM_WORKERS, WorkerSgd())
    state = bare.init(torch.linspace(-1, 1, NUM_PARAMETERS, dtype=torch.float64))
    for version in range(4):
        state = bare.aggregate(state, random_buffer(version))

    wrapped = after(config, 4)

    assert torch.equal(wrapped.model, state.model)
    assert wrapped.memory.keys() - state.memory.keys() == {"control"}


@every_algorithm
def test_scaffold_needs_control_changes(
    config: Algorithm, make_returns: Callable[..., Returns]
) -> None:
    """Returns without control changes are refused with what to do."""
    algorithm = build(config, NUM_WORKERS, Scaffold())
    state = algorithm.init(torch.zeros(1, dtype=torch.float64))

    with pytest.raises(ValueError, match=r"train with worker\.optimizer: scaffold"):
        algorithm.aggregate(state, make_returns([0], [[1.0]]))
