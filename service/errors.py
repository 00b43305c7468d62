"""What can go wrong, in the service's words.

    SaccadeError                 its text may be sent to a caller: no paths, no stacks, no library's words
    ├── InvalidInput             the request cannot be answered as it is; names the field
    ├── UnknownModel             no such model or version here; names those there are
    ├── Overloaded               refused before any work: queue or pool full, or the deadline out of reach
    ├── Unavailable              starting, draining or not ready: another server may answer
    ├── NotAllowed               no or bad credentials
    ├── Unsupported              a part of a protocol that is not served; the text says what to use instead
    ├── DeadlineExceeded         the caller's deadline passed
    ├── Cancelled                the caller left
    ├── InferenceFailed          the model could not compute this batch; details are in the log
    ├── ModelRejected            a file that cannot be served; the text says why
    └── SetupError               the command cannot start as it is; the text says what to do

The gRPC statuses that these become are the business of service.rpc.statuses.
"""

from collections.abc import Callable
from typing import Literal, NoReturn

RefusalReason = Literal["queue_full", "pool_full", "deadline", "draining", "credentials", "caller"]
Ended = Literal["crashed", "hung", "left"]
"""Why a worker was replaced: it ended by itself, did not answer and was killed for it, or was asked to end itself."""


class SaccadeError(Exception):
    """Base of everything that the service raises on purpose."""


class InvalidInput(SaccadeError):
    """One field of the request is wrong.

    Attributes:
        field: path of the field in the request, for example `images[3]`.
        reason: what is wrong, with the value and the limit.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class UnknownModel(SaccadeError):
    """No such model or version is served here."""


class Overloaded(SaccadeError):
    """Refused before any work was done.

    Attributes:
        reason: which limit it was.
        retry_after: seconds until it is worth trying again.
        in_time: whether that is before the caller's deadline.
    """

    def __init__(self, message: str, *, reason: RefusalReason, retry_after: float, in_time: bool = True) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after = retry_after
        self.in_time = in_time


class Unavailable(SaccadeError):
    """Nobody here answers now: starting, draining or not ready."""


class NotAllowed(SaccadeError):
    """The token or certificate is missing, unknown, or not for what was asked."""


class Unsupported(SaccadeError):
    """A part of a protocol that is not served here; the text says what to use instead."""


class DeadlineExceeded(SaccadeError):
    """The caller's deadline passed before the answer was there."""


class Cancelled(SaccadeError):
    """The caller left before the answer was there."""


class InferenceFailed(SaccadeError):
    """The model could not compute the batch; the log says why."""


class ModelRejected(SaccadeError):
    """A model file that cannot be served; the text says why."""


class SetupError(SaccadeError):
    """The command cannot do its work as things are; the text says what to do about it."""


def sendable(text: str) -> str:
    """Return a text as UTF-8 can hold it: halves of surrogate pairs, as in names of files, are escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def raising(error: Exception) -> Callable[[], NoReturn]:
    """Return what raises an error: for whoever takes what returns an answer."""

    def give() -> NoReturn:
        raise error

    return give
