"""grpc.health.v1: what serves, and who wants to hear when that changes.

Anybody may ask, without credentials, so it must cost nothing to be asked: the library's own holds a thread for every
Check whose message does not come, and four of those kept all others from an answer. Here no call holds one.
"""

import threading
from collections.abc import Callable
from functools import partial

from google.rpc import code_pb2
from grpc_health.v1 import health_pb2 as pb

from service.errors import InvalidInput, Unsupported
from service.rpc.calls import Handler, parse
from service.rpc.statuses import StatusWithDetails, to_status
from service.rpc.wire import Wire, handler

SERVICE = pb.DESCRIPTOR.services_by_name["Health"].full_name
SERVING = pb.HealthCheckResponse.SERVING
NOT_SERVING = pb.HealthCheckResponse.NOT_SERVING

_LONGEST = 1024
"""Bytes of a request: a Watch keeps the name that it holds, and a model's has at most 128 characters."""
_NO_LIST = to_status(Unsupported("List is not served: strangers would learn the models' names; ask for one by Check"))
_NOT_FOUND = StatusWithDetails(code_pb2.NOT_FOUND, "no service of that name; see the README on health", [])


class Health:
    """The status of every health service; `set` and `leave` may be called by any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._statuses: dict[str, int] = {}
        self._watches: dict[str, set[_Watch]] = {}
        self._leaving = False

    def set(self, service: str, status: int) -> None:
        """Give a service a status, and tell who watches it; nothing changes after `leave`."""
        with self._changed:
            if self._leaving:
                return
            self._statuses[service] = status
            watches = list(self._watches.get(service, ()))
        for watch in watches:
            watch.look()

    def leave(self, seconds: float) -> None:
        """Say NOT_SERVING of every service, for good, and wait until who watches was told, for at most `seconds`."""
        with self._changed:
            self._leaving = True
            self._statuses = dict.fromkeys(self._statuses, NOT_SERVING)
            watches = self._all_watches()
        for watch in watches:
            watch.look()
        with self._changed:
            self._changed.wait_for(lambda: not any(watch.sending for watch in self._all_watches()), seconds)

    def handlers(self) -> dict[str, Handler]:
        """Return the gRPC handler of each method by its name."""
        return {
            "Check": handler(partial(self._receive, self._check)),
            "Watch": handler(partial(self._receive, self._watch), stream=True),
            "List": handler(lambda wire: wire.end(status=_NO_LIST)),
        }

    def _receive(self, then: Callable[[Wire, str], None], wire: Wire) -> None:
        """Ask for the one message, and go on with the service that it names."""

        def message(raw: bytes | None) -> None:
            try:
                if raw is None:
                    raise InvalidInput("request", "is missing: the call ended without a message")
                if len(raw) > _LONGEST:
                    raise InvalidInput("service", f"makes a message of {len(raw):,} bytes; the limit is {_LONGEST:,}")
                service = parse(pb.HealthCheckRequest, raw).service
            except InvalidInput as error:
                wire.end(status=to_status(error))
                return
            then(wire, service)

        wire.receive(message)

    def _check(self, wire: Wire, service: str) -> None:
        status = self._statuses.get(service)
        if status is None:
            wire.end(status=_NOT_FOUND)
        else:
            wire.end(_answer(status))

    def _watch(self, wire: Wire, service: str) -> None:
        watch = _Watch(
            wire, lambda: self._statuses.get(service, pb.HealthCheckResponse.SERVICE_UNKNOWN), self._watch_changed
        )
        if not wire.on_end(partial(self._over, service, watch)):
            return
        with self._changed:
            self._watches.setdefault(service, set()).add(watch)
        watch.look()

    def _over(self, service: str, watch: "_Watch") -> None:
        with self._changed:
            self._watches[service].discard(watch)
            if not self._watches[service]:
                del self._watches[service]  # or every name that a stranger thinks of would stay
            self._changed.notify_all()

    def _watch_changed(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _all_watches(self) -> "list[_Watch]":
        return [watch for each in self._watches.values() for watch in each]


class _Watch:
    """One open Watch; it hears of every status that lasts until the one before was sent.

    No lock is held while sending: gRPC's thread, which would end the sending, may be waiting for it.

    Args:
        wire: the RPC.
        current: returns the status.
        told: called when there is nothing more to send.

    Attributes:
        sending: whether a status is under way.
    """

    def __init__(self, wire: Wire, current: Callable[[], int], told: Callable[[], None]) -> None:
        self._wire = wire
        self._current = current
        self._on_told = told
        self._lock = threading.Lock()
        self._told: int | None = None
        self.sending = False

    def look(self) -> None:
        """Send the status, now or after the one that is being sent; from any thread."""
        with self._lock:
            if self.sending:
                return
            self.sending = True
        self._send()

    def _send(self) -> None:
        """Send the status unless it was told last."""
        with self._lock:
            status = self._current()
            self.sending = news = status != self._told
            self._told = status
        if news:
            self._wire.send(_answer(status), self._send)
        else:
            self._on_told()


def _answer(status: int) -> bytes:
    return pb.HealthCheckResponse(status=status).SerializeToString()
