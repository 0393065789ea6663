"""Errors of the compute side."""

import errno

_STORAGE_ERRNOS = {
    errno.ENOSPC: "no space left on the device",
    errno.EDQUOT: "disk quota exceeded",
    errno.EFBIG: "file larger than the limit of this process",
    errno.EROFS: "the file system is read-only",
    errno.EIO: "input/output error of the device",
}


class JobError(Exception):
    """A job cannot go on; the message is for the user and says what to do.

    Attributes:
        reason: One word for the class of failure, such as ``storage`` or ``data``.
    """

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


def storage_error(error: OSError) -> JobError | None:
    """Translate an operating-system error about storage; None if it is about something else."""
    words = _STORAGE_ERRNOS.get(error.errno or 0)
    if words is None:
        return None
    where = f" writing {error.filename}" if error.filename else ""
    return JobError("storage", f"{words}{where}; free some, then continue with: watershed resume")
