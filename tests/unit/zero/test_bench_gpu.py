"""The GPU benchmark runs through on a CPU, where its numbers mean nothing."""

import pytest
import torch
from typer.main import get_command

from flows.bench_commands import bench
from tasks.zero.bench_gpu import Row, main, make_parser


def test_every_measurement_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """Copy, six kernels, plain and engine: each with a rate and a share of what it is held to."""
    options = "--device cpu --model gpt-1m --sequence 8 --micro-batch 1 --steps 1 --no-compile"

    status = main([*options.split(), "--values", "10000"])

    lines = capsys.readouterr().out.splitlines()
    assert status == 0
    assert [line[:34].strip() for line in lines] == [
        "copy",
        "quantize INT8",
        "dequantize INT8",
        "dequantize and sum 8 x INT8",
        "quantize INT4",
        "dequantize INT4",
        "dequantize and sum 8 x INT4",
        "gpt-1m, plain",
        "gpt-1m, engine",
    ]
    assert all(float(line[34:44]) >= 0 for line in lines)
    assert ["target" in line for line in lines] == [False, *[True] * 6, False, True]


@pytest.mark.parametrize(("share", "verdict"), [(0.81, "met"), (0.79, "MISSED")])
def test_a_row_says_whether_the_target_is_met(share: float, verdict: str) -> None:
    """Both ways, and the MFU only where the peak is known."""
    row = Row("quantize INT8", 2500.0, "GB/s", share, 0.8)
    with_peak = Row("engine", 400.0, "TFLOPS", share, 0.8, 0.404)

    assert str(row).endswith(f"target 80%: {verdict}")
    assert str(with_peak).endswith("MFU 40.4%")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_without_a_gpu_one_line_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2, and nothing on standard output."""
    status = main([])

    captured = capsys.readouterr()
    assert status == 2
    assert captured.out == ""
    assert captured.err == "no CUDA device here; --device cpu tries the code, not the speed\n"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_measured(
    capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    """A small model, compiled, runs through; the kernels reach half of the copy at least.

    No barrier has to guess its device, which torch would warn of.
    """
    options = "--model gpt-125m --sequence 512 --micro-batch 4 --steps 5"

    # With fewer values their times would be those of launches.
    status = main([*options.split(), "--values", str(2**28)])

    lines = capsys.readouterr().out.splitlines()
    assert status == 0
    assert all(float(line[52:59].strip(" %")) > 50 for line in lines if "INT" in line)
    assert not [one for one in recwarn if "device under current context" in str(one.message)]


def test_the_benchmark_of_a_gpu_has_the_options_of_its_module() -> None:
    """None of them is hidden, and what they are left out for is the same."""
    known = {
        option: action.default
        for action in make_parser()._actions
        for option in action.option_strings
        if option not in {"-h", "--help"}
    }
    command = get_command(bench).commands["gpu"]  # type: ignore[attr-defined]  # a group
    given = {option: parameter.default for parameter in command.params for option in parameter.opts}

    assert given == known
