"""What has stopped of a study that somebody wished to stop; flows define no classes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Stopped:
    """What has come of the wish that a study stops.

    Attributes:
        num_jobs: Jobs of Slurm that have stopped.
        num_left: Jobs of Slurm that have not in time.
        num_orphans: Jobs of this machine that a flow had left which was gone, and that have
            stopped.
        has_ended_flow: Whether a flow was running and has ended.
        was_handed_over: Whether the next ``watershed up`` would have gone on with it.
        goes_on: Of a flow, or of jobs that one had left, that have not ended: who runs them, and
            what to do; else empty.
    """

    num_jobs: int = 0
    num_left: int = 0
    num_orphans: int = 0
    has_ended_flow: bool = False
    was_handed_over: bool = False
    goes_on: str = ""

    @property
    def is_nothing(self) -> bool:
        """Whether nothing was running."""
        return self == Stopped()
