"""Around every RPC of ours: parse, refuse, failure to status by one table, count and time.

Two parts. `Gate` is the gRPC interceptor: it decides before the message is read whether a call is taken at all. `guard`
wraps a handler once, when it is registered, which costs nothing a call. Health and reflection pass through untouched.
"""

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from service import logs
from service.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidInput,
    Overloaded,
    RefusalReason,
    SaccadeError,
    Unavailable,
    UnknownModel,
    Unsupported,
)
from service.metrics import Metrics
from service.rpc.pools import CallPool, Pools

Request = TypeVar("Request", bound=Message)
Parsed_co = TypeVar("Parsed_co", bound=Message, covariant=True)

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
"""gRPC's handler of one method; it is generic only for type checkers."""

PUSHBACK = "grpc-retry-pushback-ms"
"""gRPC's own retry reads only this, in the trailing metadata; -1 tells it not to try again."""

NO_DEADLINE = 1e9
"""grpcio reports about 9e18 seconds where there is no deadline."""

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


@dataclass(slots=True)
class Call:
    """One RPC under way, as a handler sees it.

    Attributes:
        deadline: on `time.monotonic`; None where the caller set none.
        watch: registers what to call when the caller leaves; False if it has.
        model: set by the handler as soon as it is known, for the metrics; likewise `version`, where one is run, and
            `id`, for the log.
    """

    deadline: float | None
    watch: Callable[[Callable[[], None]], bool]
    model: str = ""
    id: str = ""
    version: int = 0


class Parser(Protocol[Parsed_co]):
    """A message class."""

    def FromString(self, raw: bytes) -> Parsed_co: ...  # noqa: D102, N802 - protobuf's name


class StatusWithDetails(grpc.Status):
    """What `abort_with_status` sends: code, text, google.rpc details and the push-back."""

    def __init__(self, code: int, text: str, details: list[Message], pushback_ms: int | None = None) -> None:
        packed = [any_pb2.Any() for _ in details]
        for holder, detail in zip(packed, details, strict=True):
            holder.Pack(detail)
        self.message = status_pb2.Status(code=code, message=text, details=packed)
        self.code = next(entry for entry in grpc.StatusCode if entry.value[0] == code)
        self.details = text
        trailing: list[tuple[str, str | bytes]] = []
        if details:
            trailing.append(("grpc-status-details-bin", self.message.SerializeToString()))
        if pushback_ms is not None:
            trailing.append((PUSHBACK, str(pushback_ms)))
        self.trailing_metadata = tuple(trailing)


def to_status(error: SaccadeError) -> StatusWithDetails:
    """Return the gRPC status of a failure, by the table of the design."""
    code = next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), code_pb2.INTERNAL)
    if isinstance(error, InvalidInput):
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.reason)
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
    logs.failure("internal error", error, incident=incident)
    return StatusWithDetails(code_pb2.INTERNAL, f"internal error {incident}", [])


def failed(error: Exception, call: Call, method: str, metrics: Metrics) -> StatusWithDetails:
    """Return the status of a failed call, logged (refusals, which come by the thousand, share one line a second)."""
    if not isinstance(error, SaccadeError):
        return _internal(error)
    status = to_status(error)
    if isinstance(error, Overloaded):
        metrics.refused(call.model, error.reason)
        logs.sometimes("calls refused", method=method, model=call.model, reason=str(error))
    elif status.code is not grpc.StatusCode.INTERNAL:
        logs.info("call failed", method=method, model=call.model, code=status.code.name, reason=str(error), id=call.id)
    return status


def guard(
    handle: Callable[[Request, Call], Message],
    parser: Parser[Request],
    *,
    method: str,
    metrics: Metrics,
    pool: Any,  # noqa: ANN401 - grpcio reads the attribute by its own rules
    access_log: bool = False,
) -> Handler:
    """Return the gRPC handler of one unary method: parses, runs `handle` on `pool`, answers failures by the table.

    One line is logged for each failed call, and with `access_log` for each answered one.

    No deserializer is registered with gRPC: bytes that are no message would never reach us, and be answered INTERNAL.
    """

    def behavior(raw: bytes, context: grpc.ServicerContext) -> Message:
        started = time.monotonic()
        left = context.time_remaining()
        call = Call(started + left if left < NO_DEADLINE else None, context.add_callback)
        status: StatusWithDetails
        try:
            response = handle(parse(parser, raw), call)
        except Exception as error:  # noqa: BLE001 - whatever it was, the caller hears of it by the table
            status = failed(error, call, method, metrics)
        else:
            seconds = time.monotonic() - started
            metrics.call(call.model, method, "OK", seconds, call.version)
            if access_log:
                logs.info("call", method=method, model=call.model, ms=round(seconds * 1000, 3), id=call.id)
            return response
        metrics.call(call.model, method, status.code.name, time.monotonic() - started, call.version)
        context.abort_with_status(status)
        raise AssertionError("abort_with_status returned. This is a bug.")

    behavior.experimental_thread_pool = pool  # type: ignore[attr-defined]
    return grpc.unary_unary_rpc_method_handler(
        behavior, response_serializer=lambda message: message.SerializeToString()
    )


def parse(parser: Parser[Request], raw: bytes) -> Request:
    """Return the message of these bytes.

    Raises:
        InvalidInput: they are no such message.
    """
    try:
        return parser.FromString(raw)
    except DecodeError:
        raise InvalidInput("request", f"{len(raw):,} bytes that are no message of this method") from None


def sooner(deadline: float | None, seconds: float) -> float:
    """Return the deadline of a message that gives itself so many seconds from now."""
    own = time.monotonic() + seconds
    return own if deadline is None else min(own, deadline)


class Gate(grpc.ServerInterceptor):
    """Refuses calls before their message is read: while draining, and while the pool of calls is full.

    Args:
        pools: the server's threads.
        metrics: counts what is refused.
        guarded: the methods that it refuses while draining, by full name, each with the pool whose being full refuses
            it too, if any. All others (health, reflection) pass.
    """

    def __init__(self, pools: Pools, metrics: Metrics, guarded: Mapping[str, CallPool | None]) -> None:
        self._pools = pools
        self._draining = threading.Event()
        self._full: dict[str, tuple[CallPool, Handler]] = {}
        for method, pool in guarded.items():
            if pool is not None:
                text = f"{pool.size} {pool.what} are under way, the limit; try again"
                full = Overloaded(text, reason="pool_full", retry_after=0.1)
                self._full[method] = (pool, self._refusal(full, "pool_full", method, metrics))
        leaving = Unavailable("draining; try another server")
        self._leaving = {method: self._refusal(leaving, "draining", method, metrics) for method in guarded}

    def close(self) -> None:
        """Refuse all new calls from now on."""
        self._draining.set()

    def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Handler | None]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Return the method's handler, or one that refuses. On gRPC's one polling thread, as `submit` is next."""
        method = handler_call_details.method
        if self._draining.is_set() and method in self._leaving:
            return self._leaving[method]
        if method in self._full:
            pool, refusal = self._full[method]
            if pool.full:
                return refusal
        return continuation(handler_call_details)

    def _refusal(self, error: SaccadeError, reason: RefusalReason, method: str, metrics: Metrics) -> Handler:
        status = to_status(error)
        name = method.rpartition("/")[2]

        def behavior(_: Iterator[bytes], context: grpc.ServicerContext) -> None:
            metrics.refused("", reason)
            logs.sometimes("calls refused", method=name, reason=str(error))
            metrics.call("", name, status.code.name, 0.0)
            context.abort_with_status(status)

        behavior.experimental_thread_pool = self._pools.refusals  # type: ignore[attr-defined]
        # Declared as streaming, so that gRPC does not wait for the message; on the wire it is all one.
        return grpc.stream_unary_rpc_method_handler(behavior)
