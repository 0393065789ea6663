"""What a night says that cannot begin."""

from pathlib import Path

import pytest

from flows.nightly import _unusable
from tasks.steps.night_lock import night_lock


def test_a_planted_lock_is_named_with_what_to_do(tmp_path: Path) -> None:
    """The night fails on its configuration: which file, what it is, who can mend it."""
    lock = tmp_path / ".nightly-digits.lock"
    lock.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(OSError, match="it is a link") as caught, night_lock(tmp_path, "digits", ""):
        pass

    assert _unusable(tmp_path, caught.value).message == (
        f"configuration: runs_dir: {lock} cannot be used: it is a link; if no night runs, remove "
        "it or have its owner do so, or use a directory of your own"
    )
