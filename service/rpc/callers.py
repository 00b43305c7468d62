"""How many calls of one caller may be under way: a limit for each, so that one cannot take the place of all."""

from collections.abc import Callable
from functools import partial

from service import logs
from service.errors import Overloaded
from service.metrics import Metrics
from service.rpc.statuses import to_status
from service.rpc.wire import Wire

OnArrival = Callable[[Wire], None]


class Callers:
    """The calls and streams under way of each caller, counted from their arrival to their end; 2 us a call.

    Used on gRPC's one polling thread only.

    Args:
        limit: how many each caller may have.
        name: says whose call it is.
        metrics: where refusals are counted.
    """

    def __init__(self, limit: int, name: Callable[[Wire], str], metrics: Metrics) -> None:
        self._name = name
        self._limit = limit
        self._metrics = metrics
        self._under_way: dict[str, int] = {}
        text = f"{limit} calls of this caller are under way, the limit of each; wait for one to end"
        self._full = to_status(Overloaded(text, reason="caller", retry_after=0.1))

    def guard(self, method: str, on_arrival: OnArrival) -> OnArrival:
        """Return what takes the calls of a method: it refuses those over the limit and hands on the others."""

        def arrive(wire: Wire) -> None:
            name = self._name(wire)
            count = self._under_way.get(name, 0)
            if count >= self._limit:
                self._metrics.refused("", "caller")
                self._metrics.call("", method, self._full.code.name, 0.0)
                logs.sometimes("calls of one caller refused", method=method, caller=name, limit=self._limit)
                wire.end(status=self._full)
            elif wire.on_end(partial(self._over, name)):
                self._under_way[name] = count + 1
                on_arrival(wire)

        return arrive

    def _over(self, name: str) -> None:
        count = self._under_way[name] - 1
        if count:
            self._under_way[name] = count
        else:
            del self._under_way[name]


def host(peer: str) -> str:
    """Return a peer's address without its port: all connections of one host are one caller."""
    return peer.rpartition(":")[0]
