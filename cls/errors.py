"""Every error that CLS raises on purpose, in one tree; what to do about it is in the type.

    CLSError
    |-- Permanent             trying again cannot help
    |   |-- NotFound          no such stream, job, version ...
    |   |-- Refused           the request contradicts the state (a lost lease, a moved champion ...)
    |   |   `-- LeaseLost     this worker no longer owns its job
    |   |-- BadData           a record, file or label that cannot be used; goes to the dead letters
    |   `-- Corrupt           an artifact or segment whose bytes do not match their hash
    `-- Temporary             may pass by itself: retry after `delay` seconds
        `-- Unavailable       a database, store or registry that does not answer, a full disk

`cls.config.ConfigError` stands beside it: it is raised before anything runs.
"""


class CLSError(Exception):
    """Base of all errors that CLS raises on purpose."""


class Permanent(CLSError):
    """Trying again cannot help."""


class NotFound(Permanent):
    """No such stream, job, version or record."""


class Refused(Permanent):
    """The request contradicts the current state."""


class LeaseLost(Refused):
    """A worker no longer owns its job: what it holds must not be published."""


class BadData(Permanent):
    """A record, file or label that cannot be used."""


class Corrupt(Permanent):
    """Bytes that do not match their recorded hash."""


class Temporary(CLSError):
    """May pass by itself.

    Parameters
    ----------
    message
        What happened.
    delay
        Seconds to wait before the next try.
    """

    def __init__(self, message: str, delay: float = 5.0) -> None:
        super().__init__(message)
        self.delay = delay


class Unavailable(Temporary):
    """A database, store or registry that does not answer, or a full disk."""
