"""Errors of the servers and of what is asked of them."""


class ServicesError(Exception):
    """Something that a person has to act on; the message says what was found and what to do."""


class UnreachableError(ServicesError):
    """A server does not answer, or not as it should."""


class BusyError(UnreachableError):
    """A server answers that it cannot now (408, 429, 502, 503), and may the next moment."""


class RefusedError(ServicesError):
    """A server answers, and refuses who asks (401, 403)."""


class TokenMissingError(RefusedError):
    """A server wants a token against forged requests (CSRF), or another one than it got."""
