"""The one way in: every RPC's method is found here, and its caller is known and allowed before it is."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Protocol, TypeAlias

import grpc
from google.rpc import code_pb2

from service import logs
from service.metrics import Metrics
from service.rpc.callers import Callers, host
from service.rpc.calls import Handler
from service.rpc.statuses import StatusWithDetails
from service.rpc.wire import Wire, arrival, handler
from service.tokens import Caller, Right, Tokens

HEALTH = "/grpc.health.v1.Health/"
"""What needs no credentials: probes and balancers have none."""
NEEDS: Mapping[str, Right] = {
    f"/inference.GRPCInferenceService/RepositoryModel{action}": "repository" for action in ("Load", "Unload")
}
"""Methods that need more of a caller than to be known."""

_AUTHORIZATION = "authorization"

Pairs: TypeAlias = "tuple[tuple[str, str | bytes], ...] | None"


class _Details(Protocol):
    method: str
    invocation_metadata: Pairs


class Gate(grpc.GenericRpcHandler):
    """Finds the handler of a method, or what refuses the call.

    Asked by gRPC for each RPC, on its polling thread; who it is takes 2 us with tokens. Methods that are not served are
    refused like the others, so that strangers learn nothing.

    Args:
        tokens: returns those that count now; None where none are asked for.
        metrics: where refusals are counted.
        most: calls of one caller under way; 0 for no limit. Health and reflection, which never wait for a model, do
            not count.
    """

    def __init__(self, tokens: Callable[[], Tokens | None], metrics: Metrics, *, most: int = 0) -> None:
        self._tokens = tokens
        self._metrics = metrics
        self._callers = Callers(most, self._name, metrics) if most else None
        self._handlers: dict[str, Handler] = {}
        self._refusal = lru_cache(256)(self._make_refusal)  # made anew for each call it would cost 20 us

    @property
    def methods(self) -> frozenset[str]:
        """The full names of all methods that are served."""
        return frozenset(self._handlers)

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Serve the methods of a service. Named as the server's own, so that generated code takes this for one."""
        ours = f"/{service}/" != HEALTH
        self._handlers |= {
            f"/{service}/{method}": self._limited(method, found) if ours else found
            for method, found in handlers.items()
        }

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Do nothing: generated code gives the same handlers to `add_registered_method_handlers`."""

    def service(self, handler_call_details: _Details) -> "Handler | None":  # type: ignore[override]
        """Return what answers an RPC; None: there is no such method."""
        method = handler_call_details.method
        found = self._handlers.get(method)
        tokens = self._tokens()
        if tokens is None or (found is not None and method.startswith(HEALTH)):
            return found
        caller, why = identify(tokens, handler_call_details.invocation_metadata)
        if caller is None:
            return self._refusal(self._known(method), code_pb2.UNAUTHENTICATED, why)
        need = NEEDS.get(method)
        if need is not None and need not in caller.rights:
            why = f"{caller.name} may not do this; the right {need!r} after its token in --tokens-file would allow it"
            return self._refusal(self._known(method), code_pb2.PERMISSION_DENIED, why)
        return found

    def _limited(self, method: str, found: Handler) -> Handler:
        on_arrival = arrival(found)
        if self._callers is None or on_arrival is None:
            return found
        return handler(self._callers.guard(method, on_arrival), stream=found.request_streaming)

    def _name(self, wire: Wire) -> str:
        """Return who calls: by its token, or where it comes from if none are asked for."""
        tokens = self._tokens()
        caller = None if tokens is None else identify(tokens, wire.metadata)[0]
        return caller.name if caller else host(wire.peer)

    def _known(self, method: str) -> str:
        """Return the name that is counted and logged: strangers make no names."""
        return method.rpartition("/")[2] if method in self._handlers else "unknown"

    def _make_refusal(self, name: str, code: int, why: str) -> Handler:
        status = StatusWithDetails(code, why, [])

        def refuse(wire: Wire) -> None:
            self._metrics.refused("", "credentials")
            self._metrics.call("", name, status.code.name, 0.0)
            logs.sometimes("calls refused", method=name, peer=wire.peer, reason=why)
            wire.end(status=status)

        return handler(refuse)


def identify(tokens: Tokens, metadata: Pairs) -> tuple[Caller | None, str]:
    """Return whose call it is by its metadata, or None and why."""
    given = [value for key, value in metadata or () if key == _AUTHORIZATION]
    if not given:
        return None, "no credentials; send the metadata `authorization: Bearer TOKEN`"
    if len(given) > 1:
        return None, "several `authorization` entries; send one"
    value = given[0]
    caller = tokens.caller(value if isinstance(value, str) else value.decode("utf-8", "replace"))
    return caller, "" if caller else "unknown or malformed token; it must be `Bearer` and a token of this server's"
