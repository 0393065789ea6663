"""What follows each class of failure."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.slurm.failures import (
    POLICIES,
    Ended,
    GiveUp,
    Resubmit,
    Retry,
    is_missing_everywhere,
    next_step,
)
from tasks.slurm.states import FailureClass

F = FailureClass
ENDED = st.builds(
    Ended,
    st.sampled_from(FailureClass),
    node=st.sampled_from(["", "node01", "node02", "node[03-04]", "node05,node06"]),
    moved=st.booleans(),
)


def after(*history: Ended, max_retries: int = 3, requeue: bool = True) -> Retry | GiveUp:
    """Say what follows, with a launcher's defaults."""
    return next_step(history, max_retries=max_retries, requeue=requeue)


def test_every_class_has_a_policy() -> None:
    """There is no failure of which nobody has decided what follows."""
    assert set(POLICIES) == set(FailureClass)


@given(st.lists(ENDED, min_size=1, max_size=40), st.integers(0, 5), st.booleans())
def test_whatever_happened_the_next_step_is_sound(
    history: list[Ended],
    max_retries: int,
    requeue: bool,  # noqa: FBT001  given by position
) -> None:
    """There always is a next step, in words, at a time that comes, without blaming bystanders."""
    step = next_step(history, max_retries=max_retries, requeue=requeue)

    assert "submitted again" in step.words
    if isinstance(step, Retry):
        assert 0 <= step.delay_s <= 600
        assert set(step.exclude) <= {"node01", "node02"}


@pytest.mark.parametrize(
    "failure",
    [
        F.APPLICATION_ERROR,
        F.OUT_OF_MEMORY,
        F.DEADLINE,
        F.SUBMIT_REFUSED,
        F.CANCELLED_BY_USER,
        F.CANCELLED_BY_ADMIN,
    ],
)
@given(earlier=st.lists(ENDED, max_size=5))
def test_what_would_fail_again_is_not_tried_again(
    failure: FailureClass, earlier: list[Ended]
) -> None:
    """Errors of the application, refusals and cancellations end the run, progress or not."""
    if failure is F.SUBMIT_REFUSED:
        earlier = [ended for ended in earlier if not ended.node]

    step = after(*earlier, Ended(failure, moved=True))

    assert isinstance(step, GiveUp)


def test_errors_of_the_application_are_never_retried() -> None:
    """The one row that must not change by accident: no node-hours for the same error."""
    assert POLICIES[F.APPLICATION_ERROR].resubmit is Resubmit.NEVER
    assert POLICIES[F.OUT_OF_MEMORY].resubmit is Resubmit.NEVER
    assert POLICIES[F.CANCELLED_BY_USER].resubmit is Resubmit.NEVER


def test_a_lost_node_is_left_out() -> None:
    """The retry after a lost node goes elsewhere, after a while, and says which retry it is."""
    step = after(Ended(F.NODE_FAILURE, node="node01"))

    assert step == Retry(
        15.0,
        ("node01",),
        "submitted again, as a node was lost, the job is sound (retry 1 of 3)",
        "retry 1 of 3",
    )


def test_all_nodes_that_were_lost_are_left_out() -> None:
    """A node that failed two submissions ago is still not trusted; none is named twice."""
    history = [Ended(F.NODE_FAILURE, node=node) for node in ("node01", "node02", "node01")]

    step = after(*history)

    assert isinstance(step, Retry)
    assert step.exclude == ("node01", "node02")


def test_one_of_many_nodes_is_not_known() -> None:
    """Of a job of 64 nodes one has failed; to leave out all of them would be unjust."""
    step = after(Ended(F.NODE_FAILURE, node="node[01-64]"))

    assert isinstance(step, Retry)
    assert step.exclude == ()


def test_retries_are_bounded() -> None:
    """After max_retries retries without progress the run is given up."""
    lost = Ended(F.NODE_FAILURE)

    steps = [after(*[lost] * count) for count in (1, 2, 3, 4)]

    assert [type(step) for step in steps] == [Retry, Retry, Retry, GiveUp]
    assert steps[-1].words == "not submitted again, as launcher.max_retries is 3"


@pytest.mark.parametrize("failure", [F.NODE_FAILURE, F.LAUNCH_FAILURE, F.RANK_LOST, F.LOST])
def test_no_retries_means_none(failure: FailureClass) -> None:
    """max_retries 0 holds for all that it bounds, progress or not."""
    assert isinstance(after(Ended(failure, moved=True), max_retries=0), GiveUp)


def test_different_bounded_failures_share_the_bound() -> None:
    """A run whose node, launch and trace fail in turn does not get three times the retries."""
    history = [Ended(f) for f in (F.NODE_FAILURE, F.LAUNCH_FAILURE, F.LOST, F.NODE_FAILURE)]

    assert isinstance(after(*history), GiveUp)


def test_progress_begins_a_new_row() -> None:
    """A run of weeks may lose more nodes than max_retries, if it came further each time."""
    lost, moved = Ended(F.NODE_FAILURE), Ended(F.NODE_FAILURE, moved=True)

    step = after(lost, lost, lost, moved)

    assert isinstance(step, Retry)
    assert step.words.endswith("(retry 1 of 3)")
    assert step.delay_s == 15.0


def test_preemption_costs_no_retry() -> None:
    """A thousand preemptions in a row do not end a run, nor do they count among lost nodes."""
    preempted, lost = Ended(F.PREEMPTED), Ended(F.NODE_FAILURE)

    many = after(*[preempted] * 1000)
    between = after(lost, *[preempted] * 10, lost)

    assert isinstance(many, Retry)
    assert many.delay_s == 600.0
    assert between.words.endswith("(retry 2 of 3)")


def test_a_time_limit_needs_progress() -> None:
    """The next part of a long run is submitted at once; one that came no further is not."""
    moved = after(Ended(F.TIME_LIMIT, moved=True))
    stuck = after(Ended(F.TIME_LIMIT, moved=True), Ended(F.TIME_LIMIT))

    assert isinstance(moved, Retry)
    assert moved.delay_s == 0
    assert isinstance(stuck, GiveUp)
    assert "saved no checkpoint" in stuck.words


@pytest.mark.parametrize("failure", [F.TIME_LIMIT, F.PREEMPTED])
def test_a_job_that_may_not_be_requeued_is_not(failure: FailureClass) -> None:
    """launcher.requeue: false holds for us as for Slurm."""
    step = after(Ended(failure, moved=True), requeue=False)

    assert step == GiveUp("not submitted again, as launcher.requeue is false")


def test_a_cluster_without_other_nodes_gets_the_lost_one_back() -> None:
    """Where Slurm refuses a job for the nodes that were left out, they are tried again."""
    lost, refused = Ended(F.NODE_FAILURE, node="node01"), Ended(F.SUBMIT_REFUSED)

    again = after(lost, refused)
    never = after(lost, refused, refused)

    assert again == Retry(0.0, (), "submitted again with node01, without which Slurm refused it")
    assert isinstance(never, GiveUp)


def test_nothing_follows_nothing() -> None:
    """Without a failure there is no question."""
    with pytest.raises(ValueError, match="nothing has failed yet"):
        after()


def test_what_is_missing_on_two_nodes_is_missing_everywhere() -> None:
    """One node may have lost a mount; the same node twice, or an unknown one, proves no more."""
    launch, lost = Ended(F.LAUNCH_FAILURE, node="n1"), Ended(F.NODE_FAILURE, node="n1")

    assert is_missing_everywhere([launch], "n2")
    assert not is_missing_everywhere([launch, launch], "n1")
    assert not is_missing_everywhere([launch], "")
    assert not is_missing_everywhere([lost, Ended(F.LAUNCH_FAILURE)], "n2")
