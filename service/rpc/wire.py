"""One RPC on the wire: receive, send, end, from any thread. The only user of what is private in grpcio's server.

grpcio's synchronous server holds a thread for every call from its first byte to its last, and wakes it for each step.
Here nothing waits: gRPC's polling thread hands over each message, and whoever has the answer sends it. A bare call
costs 0.6 of what it does with a thread (215 instead of 363 us of server CPU at 32 callers), a caller that never sends
its message holds nothing, and a thousand calls wait without a thousand threads.

What is used is what grpcio's own handlers are made of, and a test pins it: `check` says at start if it has changed.
"""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import grpc
from grpc import _server
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from service.errors import SetupError
from service.rpc.statuses import to_status

_NO_DEADLINE = 1e9
"""grpcio reports about 9e18 seconds where there is no deadline."""

_SENDING = "saccade is sending"


class Wire:
    """One RPC, unary or stream, as gRPC gave it.

    Args:
        event: gRPC's event of the call's arrival.
        state: what gRPC keeps of the call.
    """

    __slots__ = ("_event", "_state", "arrived")

    def __init__(self, event: Any, state: Any) -> None:  # noqa: ANN401 - private classes
        self._event = event
        self._state = state
        self.arrived = time.monotonic()

    @property
    def deadline(self) -> float | None:
        """The caller's deadline on `time.monotonic`; None if it set none. Worked out anew each time: ask once."""
        left = self._event.call_details.deadline - time.time()
        return time.monotonic() + left if left < _NO_DEADLINE else None

    @property
    def peer(self) -> str:
        """Where the caller is, such as `ipv4:10.0.0.7:41234`."""
        return str(self._event.call.peer(), "utf-8", "replace")

    @property
    def metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """What the caller sent before its message."""
        pairs: tuple[tuple[str, str | bytes], ...] = self._event.invocation_metadata
        return pairs

    @property
    def left(self) -> bool:
        """Whether the caller left, or its deadline passed, before it had its answer; known when `on_end` is told."""
        return bool(self._state.client is _server._CANCELLED)

    def on_end(self, callback: Callable[[], None]) -> bool:
        """Call when the RPC is over for whatever reason, its last bytes handed to the transport; False: it is over.

        On the polling thread.
        """
        with self._state.condition:
            if self._state.callbacks is None:
                return False
            self._state.callbacks.append(callback)
            return True

    def receive(self, on_message: Callable[[bytes | None], None]) -> None:
        """Ask for the next message. `on_message` gets its bytes, or None: there is none, or the caller left.

        On the polling thread, so it must not block. May be called with or without gRPC's lock on the call.
        """
        state = self._state
        with state.condition:
            if not _server._is_rpc_state_active(state):
                return
            received = _server._receive_message(state, self._event.call, None)

            def tag(event: Any) -> Any:  # noqa: ANN401 - gRPC's own
                over = received(event)
                raw, state.request = state.request, None
                _tell(partial(on_message, raw))
                return over

            self._event.call.start_server_batch((cygrpc.ReceiveMessageOperation(0),), tag)
            state.due.add(_server._RECEIVE_MESSAGE_TOKEN)

    def send(self, raw: bytes, on_sent: Callable[[], None]) -> bool:
        """Send one message of a stream; False: the RPC is over. One at a time: the next after `on_sent` was called."""
        state = self._state
        with state.condition:
            if not _server._is_rpc_state_active(state):
                return False
            operations: list[Any] = [cygrpc.SendMessageOperation(raw, 0)]
            if state.initial_metadata_allowed:
                operations.insert(0, _server._get_initial_metadata_operation(state, None))
                state.initial_metadata_allowed = False
            sent = _server._send_message(state, _SENDING)

            def tag(event: Any) -> Any:  # noqa: ANN401 - gRPC's own
                over = sent(event)
                _tell(on_sent)
                return over

            self._event.call.start_server_batch(operations, tag)
            state.due.add(_SENDING)
        return True

    def later(self, callback: Callable[[], None]) -> bool:
        """Call back on the polling thread, after what gRPC has at hand now; False: the RPC is over, and it will not."""

        def tag(_: Any) -> Any:  # noqa: ANN401 - gRPC's own
            _tell(callback)
            return None, ()

        with self._state.condition:
            if not _server._is_rpc_state_active(self._state):
                return False
            # A batch without operations is complete at once: gRPC queues its event behind those that are there.
            self._event.call.start_server_batch((), tag)
        return True

    def end(self, raw: bytes | None = None, status: grpc.Status | None = None) -> None:
        """End the RPC: with the one message of a unary answer, or with a status that is not OK, or with OK alone."""
        state = self._state
        if status is not None:
            state.code, state.details = status.code, status.details.encode()
            state.trailing_metadata = status.trailing_metadata
        if not state.statused:
            _server._status(self._event, state, raw)

    def cancel(self) -> None:
        """End the RPC now, for a caller that takes no answers: a status would wait behind them, as long as they do.

        The caller sees CANCELLED. `on_end` is told as of any end.
        """
        self._event.call.cancel()


def _tell(callback: Callable[[], None]) -> None:
    """Call back; what it raises would end the polling thread, and with it the server."""
    try:
        callback()
    except Exception:
        logging.getLogger("saccade").exception("an RPC could not go on. This is a bug.")


class _Arrivals(ThreadPoolExecutor):
    """Where gRPC hands over a call; a thread pool in type only, which is what gRPC asks for."""

    def __init__(self, on_arrival: Callable[[Wire], None]) -> None:
        super().__init__(max_workers=1)
        self.on_arrival = on_arrival

    def submit(self, fn: Any, /, *args: Any, **_: Any) -> Future[Any]:  # noqa: ANN401, ARG002 - as the base has it
        """Take a call: (gRPC's runner, its event, its state, ...). On the polling thread, with the call's lock."""
        wire = Wire(args[1], args[2])
        try:
            self.on_arrival(wire)
        except Exception as error:  # noqa: BLE001 - it would end the polling thread, and with it the server
            wire.end(status=to_status(error))
        return _OVER


class _Over(Future[Any]):
    """gRPC asks of the future only to be told of its end, to count the calls under way, which nothing here reads."""

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        """Forget it."""


_OVER = _Over()


class Threads(ThreadPoolExecutor):
    """Where gRPC runs a handler that is not ours."""

    def submit(self, fn: Any, /, *args: Any, **_: Any) -> Future[Any]:  # noqa: ANN401 - as the base has it
        """Take a call as `_Arrivals` does; where no thread can be had it ends, and not gRPC's polling thread."""
        try:
            return super().submit(fn, *args)
        except RuntimeError as error:
            Wire(args[1], args[2]).end(status=to_status(error))
            return _OVER


def handler(on_arrival: Callable[[Wire], None], *, stream: bool = False) -> "grpc.RpcMethodHandler[Any, Any]":
    """Return the handler of a method whose calls are given to `on_arrival`, on the polling thread; it must not block.

    No deserializer is registered: bytes that are no message would never reach us, and be answered INTERNAL.
    """

    def behavior(*_: object) -> None:
        raise AssertionError("grpcio ran the handler itself. This is a bug.")

    behavior.experimental_thread_pool = _Arrivals(on_arrival)  # type: ignore[attr-defined]
    if stream:
        return grpc.stream_stream_rpc_method_handler(behavior)
    return grpc.unary_unary_rpc_method_handler(behavior)


def arrival(method: "grpc.RpcMethodHandler[Any, Any]") -> Callable[[Wire], None] | None:
    """Return what a handler was made of by `handler`; None: it is not of those."""
    behavior = method.stream_stream if method.request_streaming else method.unary_unary
    arrivals = getattr(behavior, "experimental_thread_pool", None)
    return arrivals.on_arrival if isinstance(arrivals, _Arrivals) else None


_NEEDED = (
    "_CANCELLED",
    "_get_initial_metadata_operation",
    "_is_rpc_state_active",
    "_receive_message",
    "_send_message",
    "_status",
    "_RECEIVE_MESSAGE_TOKEN",
)


def check(server: Any = _server) -> None:  # noqa: ANN401 - a module, or a test's fake
    """Refuse a grpcio whose inside is not the one that is used here.

    Raises:
        SetupError: it lacks something; the text gives the command that mends it.
    """
    missing = [name for name in _NEEDED if not hasattr(server, name)]
    missing += [name for name in ("ReceiveMessageOperation", "SendMessageOperation") if not hasattr(cygrpc, name)]
    if missing:
        raise SetupError(
            f"grpcio {grpc.__version__} has no {', '.join(missing)}: run `pip install 'grpcio==1.85.*'`, "
            "the version that this was tested with"
        )
