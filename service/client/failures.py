"""A failed call to the service's own exception."""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Protocol

import grpc
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

from ..errors import (
    DeadlineExceeded,
    InferenceFailed,
    InvalidInput,
    NotAllowed,
    Overloaded,
    SaccadeError,
    Unavailable,
    UnknownModel,
    Unsupported,
)

_ERRORS: dict[int, type[SaccadeError]] = {
    code_pb2.NOT_FOUND: UnknownModel,
    code_pb2.UNAVAILABLE: Unavailable,
    code_pb2.CANCELLED: Unavailable,  # this side asked for none: a server that stops answers so in a race
    code_pb2.DEADLINE_EXCEEDED: DeadlineExceeded,
    code_pb2.UNIMPLEMENTED: Unsupported,
    code_pb2.UNAUTHENTICATED: NotAllowed,
    code_pb2.PERMISSION_DENIED: NotAllowed,
    code_pb2.INTERNAL: InferenceFailed,
}
_PUSHBACK = "grpc-retry-pushback-ms"
_DETAILS = "grpc-status-details-bin"


class Failed(Protocol):
    """What grpc and grpc.aio both say of a failed call."""

    def code(self) -> grpc.StatusCode: ...  # noqa: D102 - gRPC's names
    def details(self) -> str | None: ...  # noqa: D102
    def trailing_metadata(self) -> Iterable[tuple[str, Any]] | None: ...  # noqa: D102


def of_call(failed: Failed, address: str) -> SaccadeError:
    """Return the exception of a call that failed at this address."""
    trailing = dict(failed.trailing_metadata() or ())
    status = status_pb2.Status(code=failed.code().value[0], message=failed.details() or "")
    with suppress(DecodeError):  # what stands between here and the server may say what it likes
        status.details.extend(status_pb2.Status.FromString(trailing.get(_DETAILS, b"")).details)
    pushback = str(trailing.get(_PUSHBACK))  # none: a message over the server's cap, say; repeating it is no help
    return of_status(status, address, int(pushback) / 1000 if pushback.isdecimal() else None)


def of_message(status: status_pb2.Status, address: str) -> SaccadeError:
    """Return the exception of one message of a stream; a stream's refusals carry RetryInfo alone."""
    retry = error_details_pb2.RetryInfo()
    delays = [retry.retry_delay.ToMilliseconds() / 1000 for detail in status.details if detail.Unpack(retry)]
    return of_status(status, address, delays[0] if delays else None)


def of_status(status: status_pb2.Status, address: str, retry_after: float | None) -> SaccadeError:
    """Return the exception of a status, whose server said to come back after so many seconds, or not at all."""
    if status.code == code_pb2.INVALID_ARGUMENT:
        bad = error_details_pb2.BadRequest()
        for detail in status.details:
            if detail.Unpack(bad) and bad.field_violations:
                return InvalidInput(bad.field_violations[0].field, bad.field_violations[0].description)
        return InvalidInput("request", status.message)
    if status.code == code_pb2.RESOURCE_EXHAUSTED:
        again = retry_after is not None
        return Overloaded(status.message, reason="queue_full", retry_after=retry_after or 0.0, in_time=again)
    if status.code in _ERRORS:
        return _ERRORS[status.code](f"{address}: {status.message}")
    return SaccadeError(f"{address}: {code_pb2.Code.Name(status.code)}: {status.message}")
