"""How many jobs Slurm lets a user have in the queue, found out by trying.

A site's limits on submissions (MaxSubmitJobs and the like) are told only by refusals, and an array
counts with all of its tasks. Every refusal and every acceptance narrows the limit down.
"""

_FORGOTTEN_AFTER_S = 600.0
"""The limit may have been of the user's other jobs, too, which come and go."""


class Quota:
    """What is known of a limit."""

    def __init__(self) -> None:
        self._allowed = 0
        self._refused: int | None = None
        self._refused_s = 0.0

    def is_known(self, now_s: float) -> bool:
        """Say whether a limit is known at that time."""
        return self._refused is not None and now_s - self._refused_s <= _FORGOTTEN_AFTER_S

    def room(self, num_queued: int, now_s: float) -> int | None:
        """Return how many more jobs may be tried.

        Args:
            num_queued: How many of ours Slurm has.
            now_s: The time.

        Returns:
            A number, at least one if Slurm has none of ours; None if no limit is known.
        """
        if not self.is_known(now_s):
            self._refused = None
        if self._refused is None:
            return None
        most = (self._allowed + self._refused) // 2
        return max(most - num_queued, 0 if num_queued else 1)

    def accepted(self, num_queued: int) -> None:
        """Take note that Slurm has so many of our jobs now."""
        self._allowed = max(self._allowed, num_queued)
        if self._refused is not None:
            self._refused = max(self._refused, num_queued + 1)

    def refused(self, num_queued: int, num_new: int, now_s: float) -> None:
        """Take note that Slurm did not want to have so many of our jobs.

        Args:
            num_queued: Those that it would have had.
            num_new: How many of them it has refused; it has the others.
            now_s: The time.
        """
        if not self.is_known(now_s):
            self._refused, self._allowed = None, 0
        self._refused = min(self._refused or num_queued, num_queued)
        self._allowed = max(min(self._allowed, num_queued - 1), num_queued - num_new)
        self._refused_s = now_s
