"""Failure to gRPC status, by the one table of the design."""

import secrets

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from service import logs
from service.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidInput,
    Overloaded,
    SaccadeError,
    Unavailable,
    UnknownModel,
    Unsupported,
    sendable,
)

PUSHBACK = "grpc-retry-pushback-ms"
"""gRPC's own retry reads only this, in the trailing metadata; -1 tells it not to try again."""

_CODES: dict[type[SaccadeError], int] = {
    InvalidInput: code_pb2.INVALID_ARGUMENT,
    UnknownModel: code_pb2.NOT_FOUND,
    Overloaded: code_pb2.RESOURCE_EXHAUSTED,
    Unavailable: code_pb2.UNAVAILABLE,
    Unsupported: code_pb2.UNIMPLEMENTED,
    DeadlineExceeded: code_pb2.DEADLINE_EXCEEDED,
    Cancelled: code_pb2.CANCELLED,
}
"""Everything else is INTERNAL, and tells the caller no more than an id."""


_GRPC_CODES = {entry.value[0]: entry for entry in grpc.StatusCode}


class StatusWithDetails(grpc.Status):
    """What ends a failed call: code, text, google.rpc details and the push-back."""

    def __init__(self, code: int, text: str, details: list[Message], pushback_ms: int | None = None) -> None:
        text = sendable(text)  # else its caller would wait for ever
        packed = [any_pb2.Any() for _ in details]
        for holder, detail in zip(packed, details, strict=True):
            holder.Pack(detail)
        self.message = status_pb2.Status(code=code, message=text, details=packed)
        self.code = _GRPC_CODES[code]
        self.details = text
        trailing: list[tuple[str, str | bytes]] = []
        if details:
            trailing.append(("grpc-status-details-bin", self.message.SerializeToString()))
        if pushback_ms is not None:
            trailing.append((PUSHBACK, str(pushback_ms)))
        self.trailing_metadata = tuple(trailing)


def to_status(error: Exception) -> StatusWithDetails:
    """Return the gRPC status of a failure, by the table of the design."""
    code = next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), code_pb2.INTERNAL)
    if isinstance(error, InvalidInput):
        field, reason = sendable(error.field), sendable(error.reason)
        violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=reason)
        return StatusWithDetails(code, str(error), [error_details_pb2.BadRequest(field_violations=[violation])])
    if isinstance(error, Overloaded):
        wait = duration_pb2.Duration()
        wait.FromNanoseconds(int(error.retry_after * 1e9))
        pushback_ms = max(1, round(error.retry_after * 1000)) if error.in_time else -1
        return StatusWithDetails(code, str(error), [error_details_pb2.RetryInfo(retry_delay=wait)], pushback_ms)
    if code == code_pb2.INTERNAL:
        return _internal(error)
    return StatusWithDetails(code, str(error), [])


def _internal(error: Exception) -> StatusWithDetails:
    """Return INTERNAL with an id that the log repeats; the caller learns nothing else."""
    incident = secrets.token_hex(4)
    logs.bounded_failure("internal error", error, incident=incident)
    return StatusWithDetails(code_pb2.INTERNAL, f"internal error {incident}", [])
