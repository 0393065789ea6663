"""Errors of the tracking side."""


class TrackingError(Exception):
    """MLflow did not take something; what it did not take can be sent again.

    Attributes:
        permanent: Sending again does not help before somebody has acted; the message says how.
        unanswered: Nobody has answered; what is sent next would wait as long, in vain.
    """

    def __init__(self, message: str, *, permanent: bool = False, unanswered: bool = False) -> None:
        self.permanent = permanent
        self.unanswered = unanswered
        super().__init__(message)
