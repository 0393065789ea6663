"""The GPT against a slow reference, its counts against PyTorch's, and its initial weights."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop
from torch.utils.flop_counter import FlopCounterMode

from configs.gpt import Gpt
from models.gpt import Block, GptStages, build_gpt, initial_weights, loss_of

SEQUENCE = 8
SMALL = Gpt(layers=3, hidden=32, heads=4, vocabulary=61, rotary_fraction=0.5)
VARIANTS = [
    SMALL.model_copy(update={"tied": tied, "parallel_residual": parallel})
    for tied in (False, True)
    for parallel in (False, True)
]


def variant(config: Gpt) -> str:
    """Return what is special about a variant, for the names of tests."""
    return f"tied={config.tied}-parallel={config.parallel_residual}"


def tokens(config: Gpt, count: int = 2) -> Tensor:
    """Return random sequences with the target after the last input."""
    generator = torch.Generator().manual_seed(5)
    return torch.randint(config.vocabulary, (count, SEQUENCE + 1), generator=generator)


def with_random_vectors(model: GptStages) -> GptStages:
    """Replace biases and scales, which are 0 and 1 at first, so that each one matters."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                parameter.add_(noise, alpha=0.3)
    return model


def slow_logits(config: Gpt, weights: dict[str, Tensor], sequence: Tensor) -> Tensor:
    """Compute the logits of one sequence, head by head and position by position."""

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        deviation = (centred.square().mean(-1, keepdim=True) + config.norm_epsilon).sqrt()
        return centred / deviation * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def rotated(vector: Tensor, position: int) -> Tensor:
        half = config.rotary_width // 2
        frequencies = config.rotary_base ** (-torch.arange(half, dtype=torch.float64) / half)
        turn = torch.polar(torch.ones(half, dtype=torch.float64), position * frequencies)
        pairs = torch.complex(vector[:half], vector[half : 2 * half]) * turn
        return torch.cat((pairs.real, pairs.imag, vector[2 * half :]))

    def attention(x: Tensor, name: str) -> Tensor:
        queries, keys, values = linear(x, f"{name}.qkv").chunk(3, dim=-1)
        result = torch.empty_like(x)
        for head in range(config.heads):
            part = slice(head * config.head_width, (head + 1) * config.head_width)
            for i in range(len(x)):
                query = rotated(queries[i, part], i)
                scores = [query @ rotated(keys[j, part], j) for j in range(i + 1)]
                shares = (torch.stack(scores) / math.sqrt(config.head_width)).softmax(0)
                result[i, part] = shares @ values[: i + 1, part]
        return linear(result, f"{name}.output")

    def mlp(x: Tensor, name: str) -> Tensor:
        inner = linear(x, f"{name}.up")
        return linear(inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2))), f"{name}.output")

    x = weights["stages.0.weight"][sequence]
    for layer in range(1, config.layers + 1):
        block = f"stages.{layer}"
        attended = x + attention(norm(x, f"{block}.attention_norm"), f"{block}.attention")
        beside = x if config.parallel_residual else attended
        x = attended + mlp(norm(beside, f"{block}.mlp_norm"), f"{block}.mlp")
    head = f"stages.{config.layers + 1}"
    matrix = weights["stages.0.weight" if config.tied else f"{head}.weight"]
    return norm(x, f"{head}.norm") @ matrix.T


@pytest.mark.parametrize("config", VARIANTS, ids=variant)
def test_logits_are_those_of_a_slow_reference(config: Gpt) -> None:
    """Tied or not, side by side or not, the logits are those of the definition, in float64."""
    model = with_random_vectors(build_gpt(config, SEQUENCE, seed=1, dtype=torch.float64))
    sequence = tokens(config)[0, :-1]

    logits = model(sequence[None])[0]

    expected = slow_logits(config, dict(model.named_parameters()), sequence)
    # The tables of the rotation are float32, whatever the weights are: 6e-8 of an angle's cosine.
    torch.testing.assert_close(logits, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("config", VARIANTS, ids=variant)
def test_stages_one_by_one_are_the_model(config: Gpt) -> None:
    """Running the stages by hand, with the embedding for a tied head, gives the same logits."""
    model = build_gpt(config, SEQUENCE, seed=1)
    inputs = tokens(config)[:, :-1]

    x = inputs
    for stage in model.stages[:-1]:
        x = stage(x)
        assert x.shape == (2, SEQUENCE, config.hidden)
    head_inputs = (x, model.stages[0].weight) if config.tied else (x,)
    logits = model.stages[-1](*head_inputs)

    assert torch.equal(logits, model(inputs))


def test_no_position_sees_a_later_one() -> None:
    """Changing a token changes no logits before it, and those at it."""
    model = build_gpt(SMALL, SEQUENCE, seed=1)
    inputs = tokens(SMALL, count=1)[:, :-1]
    changed = inputs.clone()
    changed[0, 6] = (changed[0, 6] + 1) % SMALL.vocabulary

    difference = (model(inputs) - model(changed)).abs().amax(dim=(0, 2))

    assert difference[:6].max() == 0
    assert difference[6:].min() > 0


def test_shorter_sequences_than_the_longest_are_taken() -> None:
    """A model made for long sequences gives short ones the logits of their beginning."""
    model = build_gpt(SMALL, SEQUENCE, seed=1)
    inputs = tokens(SMALL)[:, :-1]

    short = model(inputs[:, :5])

    torch.testing.assert_close(short, model(inputs)[:, :5], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("config", VARIANTS, ids=variant)
def test_parameters_are_as_many_as_the_closed_form_says(config: Gpt) -> None:
    """The model has num_parameters parameters, block_parameters in each block."""
    with torch.device("meta"):
        model = GptStages(config, SEQUENCE)

    assert sum(p.numel() for p in model.parameters()) == config.num_parameters
    assert sum(p.numel() for p in model.stages[1].parameters()) == config.block_parameters
    stages = [config.stage_parameters(stage) for stage in range(config.layers + 2)]
    named = [pair for stage in stages for pair in stage.items()]
    assert [(name, p.numel()) for name, p in model.named_parameters()] == named
    assert [name for name, _ in named] == list(config.parameter_names())


class Checkpointed(nn.Module):
    """A block that is computed again in the backward pass."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """Run the block under PyTorch's checkpointing."""
        result: Tensor = checkpoint(self.block, x, use_reentrant=False)
        return result


@pytest.fixture
def counter() -> Iterator[FlopCounterMode]:
    """Return PyTorch's counter, with attention as plain matrix products.

    It counts the causal score matrix whole, as the closed form does. The flash kernel's backward
    pass would count a fifth product, its own recomputation, and its CPU kernel nothing at all.
    """
    with sdpa_kernel(SDPBackend.MATH):
        yield FlopCounterMode(display=False)


@pytest.mark.parametrize("config", VARIANTS, ids=variant)
def test_flops_of_a_forward_pass_are_counted(config: Gpt, counter: FlopCounterMode) -> None:
    """PyTorch counts for two sequences exactly twice what the closed form says."""
    model = build_gpt(config, SEQUENCE, seed=1)

    with counter:
        model.loss(tokens(config))

    assert counter.get_total_flops() == 2 * config.forward_flops(SEQUENCE)


@pytest.mark.parametrize("config", VARIANTS, ids=variant)
def test_flops_of_training_are_counted(config: Gpt, counter: FlopCounterMode) -> None:
    """PyTorch counts for forward and backward pass exactly the model FLOPs."""
    model = build_gpt(config, SEQUENCE, seed=1)

    with counter:
        torch.autograd.backward(model.loss(tokens(config)))

    assert counter.get_total_flops() == 2 * config.model_flops(SEQUENCE)
    assert config.hardware_flops(SEQUENCE, recompute=False) == config.model_flops(SEQUENCE)


def test_flops_of_recomputation_are_counted(counter: FlopCounterMode) -> None:
    """With all blocks checkpointed, PyTorch counts exactly the hardware FLOPs."""
    model = build_gpt(SMALL, SEQUENCE, seed=1)
    for layer in range(1, SMALL.layers + 1):
        model.stages[layer] = Checkpointed(model.stages[layer])

    # Stopping early would leave out each block's last product, which the closed form counts.
    with set_checkpoint_early_stop(False), counter:
        torch.autograd.backward(model.loss(tokens(SMALL)))

    assert counter.get_total_flops() == 2 * SMALL.hardware_flops(SEQUENCE, recompute=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_initial_weights_are_drawn_alike_for_every_type(dtype: torch.dtype) -> None:
    """A model in any type starts from the float32 values, rounded to it."""
    with torch.device("meta"):
        shapes = GptStages(SMALL, SEQUENCE)

    model = build_gpt(SMALL, SEQUENCE, seed=3, dtype=dtype)

    drawn = dict(initial_weights(shapes, seed=3))
    assert list(drawn) == [name for name, _ in model.named_parameters()]
    for name, parameter in model.named_parameters():
        assert parameter.dtype == dtype
        assert torch.equal(parameter, drawn[name].to(dtype)), name


def test_initial_weights_depend_on_seed_and_parameter_alone() -> None:
    """The same seed gives the same weights with a tied head or not; another one others."""
    untied, tied = build_gpt(SMALL, SEQUENCE, seed=3), build_gpt(VARIANTS[-1], SEQUENCE, seed=3)
    other = build_gpt(SMALL, SEQUENCE, seed=4)
    torch.manual_seed(0)

    again = build_gpt(SMALL, 5, seed=3)

    whole = dict(untied.named_parameters())
    for name, parameter in [*tied.named_parameters(), *again.named_parameters()]:
        assert torch.equal(parameter, whole[name]), name
    for name, parameter in other.named_parameters():
        assert torch.equal(parameter, whole[name]) == (parameter.dim() == 1), name


def test_skipped_initial_weights_change_no_others() -> None:
    """What is not needed is zero, and all else is as if it had been drawn."""
    with torch.device("meta"):
        shapes = GptStages(SMALL, SEQUENCE)
    names = [name for name, _ in shapes.named_parameters()]
    skipped = names[1::2]

    whole = dict(initial_weights(shapes, 3))
    some = dict(initial_weights(shapes, 3, skipped))

    assert list(some) == names
    assert all(not some[name].any() for name in skipped)
    assert all(torch.equal(some[name], whole[name]) for name in names[::2])


def test_initial_weights_have_the_deviation_asked_for() -> None:
    """Matrices are normal with init_std, those into the residual less by sqrt(2 L)."""
    config = Gpt(layers=2, hidden=128, heads=4, init_std=0.05)

    model = build_gpt(config, SEQUENCE, seed=0)

    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            assert torch.all(parameter == float("norm.weight" in name)), name
            continue
        expected = 0.05 / 2 if name.endswith("output.weight") else 0.05
        # At least 16 384 draws: the deviation's own is below 0.6 %, the mean's below 0.8 %.
        assert float(parameter.detach().std()) == pytest.approx(expected, rel=0.025), name
        assert abs(float(parameter.detach().mean())) < 0.035 * expected, name


def test_tables_of_the_rotation_stay_exact() -> None:
    """In bfloat16, and moved from the meta device, the tables are float32 and right."""
    config = Gpt(layers=2, hidden=32, heads=2, rotary_fraction=1.0)
    with torch.device("meta"):
        model = GptStages(config, sequence=3000)

    model = model.to(torch.bfloat16).to_empty(device="cpu")

    positions = torch.arange(3000, dtype=torch.float64)[:, None]
    angles = positions * 10_000.0 ** (-torch.arange(8, dtype=torch.float64) / 8)
    for stage in model.stages[1:-1]:
        assert isinstance(stage, Block)
        rotary = stage.attention.rotary
        assert rotary.cos.dtype == torch.float32
        assert torch.equal(rotary.cos.squeeze(), angles.cos().float())
        assert torch.equal(rotary.sin.squeeze(), angles.sin().float())
    assert not any("rotary" in name for name in model.state_dict())


def test_norms_in_bfloat16_are_computed_in_float32() -> None:
    """A norm of bfloat16 numbers is that of float32, rounded once at the end."""
    generator = torch.Generator().manual_seed(0)
    values = (3 * torch.randn(64, 512, generator=generator) + 5).bfloat16()
    stage = build_gpt(Gpt(layers=1, hidden=512), SEQUENCE, seed=0, dtype=torch.bfloat16).stages[1]
    assert isinstance(stage, Block)

    result = stage.attention_norm(values)

    # Half a unit of bfloat16's last place, and what float32 loses of numbers around 5.
    exact = functional.layer_norm(values.float(), (512,))
    torch.testing.assert_close(result.float(), exact, rtol=2**-8, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("chunk", [2**24, 100, 1])
def test_loss_is_the_mean_cross_entropy(
    dtype: torch.dtype, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss and gradient are PyTorch's, computed at once, nine positions at a time, or one."""
    monkeypatch.setattr("models.gpt._CHUNK_ELEMENTS", chunk)
    generator = torch.Generator().manual_seed(0)
    logits = (5 * torch.randn(3, 7, 11, generator=generator, dtype=dtype)).requires_grad_()
    targets = torch.randint(11, (3, 7), generator=generator)

    loss = loss_of(logits, targets)
    (gradient,) = torch.autograd.grad(3 * loss, logits)

    reference = functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    (expected,) = torch.autograd.grad(3 * reference, logits)
    assert loss.dtype == dtype
    torch.testing.assert_close(loss, reference)
    torch.testing.assert_close(gradient, expected)


def test_loss_of_bfloat16_is_float32() -> None:
    """The loss of bfloat16 logits is that of their float32 values; its gradient is bfloat16."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 8, 50, generator=generator).bfloat16().requires_grad_()
    targets = torch.randint(50, (2, 8), generator=generator)
    wide = logits.detach().float().requires_grad_()

    loss = loss_of(logits, targets)
    torch.autograd.backward(loss)

    torch.autograd.backward(loss_of(wide, targets))
    assert loss.dtype == torch.float32
    assert torch.equal(loss, loss_of(wide, targets))
    assert logits.grad is not None
    assert wide.grad is not None
    assert torch.equal(logits.grad, wide.grad.bfloat16())


def test_the_model_compiles_whole() -> None:
    """Loss and gradients come out of one graph, without a break, and are the same."""
    model = build_gpt(SMALL.model_copy(update={"layers": 1}), SEQUENCE, seed=1)
    batch = tokens(SMALL)
    # The graph is what is tested; generating machine code from it would take half a minute.
    compiled = torch.compile(model.loss, fullgraph=True, backend="eager")

    found = torch.autograd.grad(compiled(batch), list(model.parameters()))

    expected = torch.autograd.grad(model.loss(batch), list(model.parameters()))
    torch.testing.assert_close(found, expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_computes_the_same_with_flash_attention() -> None:
    """In bfloat16 on a GPU, by the flash kernel alone, the loss is that of float32 on the CPU."""
    reference = build_gpt(SMALL, SEQUENCE, seed=1)
    model = build_gpt(SMALL, SEQUENCE, seed=1, dtype=torch.bfloat16).to("cuda")
    batch = tokens(SMALL)

    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        loss = model.loss(batch.to("cuda"))
        torch.autograd.backward(loss)

    # Weights have 8 bits; the loss, near ln 61 at first, averages their errors away.
    assert float(loss) == pytest.approx(float(reference.loss(batch)), rel=1e-2)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
