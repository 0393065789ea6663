"""Failures in words: with the numbers that are known, and what to do next."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.launchers import SlurmLauncherConfig
from tasks.slurm.diagnosis import Case, diagnose
from tasks.slurm.states import FailureClass, SlurmState

F = FailureClass
GIB = 2**30
CASES = st.builds(
    Case,
    failure=st.sampled_from(FailureClass),
    state=st.sampled_from(SlurmState),
    slurm_job=st.sampled_from(["", "12", "12_3"]),
    reason=st.sampled_from(["", "None", "NonZeroExitCode"]),
    partition=st.sampled_from(["", "batch"]),
    nodes=st.sampled_from(["", "node01"]),
    exit_code=st.sampled_from([0, 1, 127, 143]),
    signal=st.sampled_from([0, 9, 53]),
    code=st.sampled_from([None, 1, 137, 139, 250]),
    has_begun=st.booleans(),
    has_moved=st.booleans(),
    elapsed_s=st.sampled_from([None, 0.0, 3607.0]),
    time_limit_s=st.sampled_from([None, 3600]),
    max_rss_bytes=st.sampled_from([None, 0, GIB]),
    memory_bytes=st.sampled_from([None, 16 * GIB]),
    cancelled_by=st.sampled_from([None, 0, 1000]),
    message=st.sampled_from(["", "it broke", "sbatch: error: token=abcdef"]),
    next_words=st.sampled_from(["", "not submitted again, as it would fail"]),
    is_retried=st.booleans(),
)


@given(CASES)
def test_every_case_is_explained(case: Case) -> None:
    """Whatever is not known is left out, never shown as None; all four parts say something."""
    diagnosis = diagnose(case)

    text = str(diagnosis)
    assert diagnosis.category == case.failure.value
    assert all([diagnosis.summary, diagnosis.detail, diagnosis.resolution])
    assert re.match(r"[A-Z]", text)
    assert diagnosis.detail.endswith(".")
    assert "None" not in text
    assert "abcdef" not in text
    assert not re.search(r"  |\.\.| ,| \.(?!\w)", text)
    assert ("Nothing has to be done" in text) == case.is_retried


@given(CASES)
def test_every_named_option_exists(case: Case) -> None:
    """Options of the launcher that an explanation names are options of the launcher."""
    text = str(diagnose(case))

    named = set(re.findall(r"launcher\.(\w+)", text))
    assert named <= set(SlurmLauncherConfig.model_fields)


@pytest.mark.parametrize("failure", list(F))
def test_who_has_to_act_is_told_which_command(failure: FailureClass) -> None:
    """An explanation ends with the command that goes on, and picks out these very failures."""
    resolution = diagnose(Case(failure)).resolution

    assert re.search(rf"watershed (resume|retry --only {failure.value})\b", resolution)


def test_out_of_memory_tells_peak_and_limit() -> None:
    """The numbers stand side by side, and half as much again is proposed."""
    case = Case(
        F.OUT_OF_MEMORY,
        state=SlurmState.OUT_OF_MEMORY,
        slurm_job="12",
        nodes="node01",
        max_rss_bytes=int(15.8 * GIB),
        memory_bytes=16 * GIB,
        next_words="not submitted again, as with the same memory it would end the same way",
    )

    text = str(diagnose(case))

    assert text == (
        "Out of memory. Job 12 on node01 ran out of memory: its peak was 15.8 of 16.0 GiB. It is "
        "not submitted again, as with the same memory it would end the same way. Set "
        "launcher.memory to 24G, or make the model or the batch smaller; then run: "
        "watershed retry --only oom"
    )


def test_a_guess_is_called_one() -> None:
    """Where Slurm says FAILED, out of memory is what the signs say, and they are named."""
    diagnosis = diagnose(Case(F.OUT_OF_MEMORY, state=SlurmState.FAILED, slurm_job="12"))

    assert diagnosis.summary == "probably out of memory"
    assert "Slurm says only FAILED, but SIGKILL ended it" in diagnosis.detail


def test_a_time_limit_tells_what_was_asked_and_what_was_used() -> None:
    """Slurm's own way of writing times, so that they can be copied to the study's file."""
    case = Case(F.TIME_LIMIT, slurm_job="12_3", elapsed_s=90_007, time_limit_s=90_000)

    diagnosis = diagnose(case)

    assert diagnosis.detail.startswith(
        "Job 12_3 was stopped at its time limit: it asked for 1-01:00:00 and ran for 1-01:00:07."
    )
    assert "launcher.time_limit" in diagnosis.resolution
    assert "experiment.checkpoint_every" in diagnosis.resolution


def test_a_time_limit_with_a_checkpoint_only_needs_to_go_on() -> None:
    """Nothing is to be changed in a run that came further."""
    diagnosis = diagnose(Case(F.TIME_LIMIT, has_moved=True))

    assert "in its newest checkpoint" in diagnosis.detail
    assert "watershed resume" in diagnosis.resolution
    assert "launcher.time_limit" not in diagnosis.resolution


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (
            Case(F.RANK_LOST, slurm_job="12", message="rank 3 was killed by SIGKILL"),
            'Job 12 lost one of its ranks, and ended the others. The program says: "rank 3 was '
            'killed by SIGKILL".',
        ),
        (Case(F.LAUNCH_FAILURE, signal=53), "Slurm could not open its output file"),
        (
            Case(F.APPLICATION_ERROR, exit_code=127, has_begun=False),
            "ended with code 127 before its program began: a command in it is not there",
        ),
        (
            Case(F.APPLICATION_ERROR, exit_code=1, has_begun=False, message="line 9, has failed"),
            'one of its lines has failed. Its output says: "line 9, has failed".',
        ),
        (
            Case(F.LAUNCH_FAILURE, exit_code=127, has_begun=False, message="python: not found"),
            "ended (code 127) before its program began: a command is not there on the node, or "
            'cannot be run. The program says: "python: not found".',
        ),
        (
            Case(F.LAUNCH_FAILURE, state=SlurmState.FAILED, exit_code=3, reason="NonZeroExitCode"),
            "ended (code 3) before its program began: Slurm says FAILED (NonZeroExitCode).",
        ),
        (Case(F.CANCELLED_BY_ADMIN, cancelled_by=0), "cancelled by root"),
        (Case(F.CANCELLED_BY_ADMIN, cancelled_by=7), "cancelled by user 7"),
        (Case(F.CANCELLED_BY_USER, cancelled_by=1000), "cancelled by you."),
        (Case(F.CANCELLED_BY_USER), "does not tell by whom"),
        (Case(F.APPLICATION_ERROR, code=139), "was killed by SIGSEGV (exit code 139)"),
        (Case(F.APPLICATION_ERROR, code=250), "was killed by signal 122 (exit code 250)"),
        (Case(F.APPLICATION_ERROR, code=1, elapsed_s=62), "ended with exit code 1 after 0:01:02."),
        (Case(F.APPLICATION_ERROR, message="no\ndata"), 'The program says: "no data".'),
        (Case(F.LOST, state=SlurmState.ABSENT, has_begun=False), "it never began"),
        (Case(F.LOST, state=SlurmState.FAILED), "Slurm says only FAILED"),
        (Case(F.PREEMPTED, partition="scavenge"), "had to make room in partition scavenge for"),
        (Case(F.NODE_FAILURE, slurm_job="12", nodes="node02"), "Slurm lost node02 under job 12."),
    ],
)
def test_what_happened_is_said(case: Case, words: str) -> None:
    """Cases of one class that need different actions are told apart."""
    assert words in diagnose(case).detail


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        ("Invalid partition name specified", "launcher.partition"),
        (
            "Invalid account or account/partition combination specified",
            "launcher.partition, launcher.account",
        ),
        ("Invalid qos specification", "launcher.qos"),
        ("Memory specification can not be satisfied", "launcher.memory"),
        ("Invalid feature specification", "launcher.constraint"),
        ("Requested time limit is invalid (missing or exceeds some limit)", "launcher.time_limit"),
        ("Something nobody has heard of", "the launcher's fields"),
    ],
)
def test_a_refusal_names_the_field_that_slurm_complains_of(words: str, fields: str) -> None:
    """The words of sbatch are kept, and lead to the option behind them."""
    case = Case(F.SUBMIT_REFUSED, message=f"sbatch: error: Batch job submission failed: {words}")

    diagnosis = diagnose(case)

    assert words in diagnosis.detail
    assert diagnosis.resolution == f"Check {fields}; then run: watershed retry --only refused"


def test_the_last_lines_hold_no_secret_and_no_tricks() -> None:
    """Lines are redacted, cut, cleared of control characters and blank ones; the last ones stay."""
    lines = (
        *[f"line {number}" for number in range(30)],
        "",
        "HF_TOKEN=abcdef",
        "\x1b[31mred\x1b[0m\x07",
        "x" * 1000,
    )

    shown = diagnose(Case(F.APPLICATION_ERROR, last_lines=lines)).last_lines

    assert len(shown) == 20
    assert shown[0] == "line 13"
    assert shown[-3:] == ("HF_TOKEN=***", " [31mred [0m", "x" * 300)


def test_a_secret_over_several_lines_is_hidden() -> None:
    """A private key is hidden as a whole, not line by line."""
    lines = ("-----BEGIN PRIVATE KEY-----", "abcdef", "-----END PRIVATE KEY-----", "then it broke")

    diagnosis = diagnose(Case(F.APPLICATION_ERROR, last_lines=lines))

    assert diagnosis.last_lines == ("***", "then it broke")


def test_a_retry_needs_nobody() -> None:
    """Where another submission follows, no command is asked of the user."""
    case = Case(F.NODE_FAILURE, next_words="submitted again, as a node was lost", is_retried=True)

    diagnosis = diagnose(case)

    assert diagnosis.resolution == "Nothing has to be done."
    assert diagnosis.detail.endswith("It is submitted again, as a node was lost.")
    assert diagnose(replace(case, is_retried=False)).resolution != diagnosis.resolution
