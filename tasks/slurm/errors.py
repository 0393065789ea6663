"""Errors of the commands of Slurm."""


class SlurmError(Exception):
    """A command of Slurm did not do what it was asked.

    Attributes:
        is_transient: Whether the same call may succeed later.
    """

    is_transient = False


class SlurmMissing(SlurmError):  # noqa: N818  an error all the same
    """Slurm's commands are not installed on this machine."""


class SlurmUnreachable(SlurmError):  # noqa: N818
    """The controller (or the accounting) does not answer, or the call ran out of time.

    A job may have been accepted all the same: look for it by name.
    """

    is_transient = True


class SlurmRefused(SlurmError):  # noqa: N818
    """Slurm has said no, in its own words; asking again would get the same answer."""


class SlurmBusy(SlurmError):  # noqa: N818
    """Slurm has said no for now: too many jobs queued by this user, a limit on submissions."""

    is_transient = True


class SlurmClosed(SlurmBusy):
    """The partition takes no jobs now: it is drained or inactive, as before a maintenance."""


class SlurmVague(SlurmBusy):
    """A policy does not allow it, and Slurm does not say which: it may last, or be for now."""


class NoAccounting(SlurmError):  # noqa: N818
    """The cluster keeps no accounting that ``sacct`` could read."""


class NotScriptable(SlurmError):  # noqa: N818
    """A path holds what a batch script cannot express."""
