"""The ways that only GPUs take, walked through without one: see ``device_walk``."""

import subprocess
import sys

PROGRAM = [sys.executable, "-m", "tests.unit.zero.device_walk"]
TIMEOUT_S = 300


def test_every_tensor_of_a_train_step_lies_on_the_device() -> None:
    """27 trainings: all named kinds of partitions, transports, tied, frozen, recomputed."""
    ended = subprocess.run(PROGRAM, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)

    assert (ended.returncode, ended.stdout) == (0, "27 trainings\n"), ended.stderr


def test_a_tensor_that_was_left_on_the_cpu_is_found() -> None:
    """Gradients that are not where the weights are."""
    ended = subprocess.run(
        [*PROGRAM, "--misplace"], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )

    assert ended.returncode != 0
    assert "device" in ended.stderr.splitlines()[-1]
