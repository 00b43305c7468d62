"""A rolling restart of three servers under 16 callers: what the client saw, and what one without retries saw.

python -m tests.benchmarks.rolling_restart [ROUNDS]
"""

import itertools
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from service.classify import EXAMPLES
from service.client import Client
from service.client.base import CLASSIFY
from service.client.pictures import Choice
from tests.rolling import Callers, Servers

PICTURE = (EXAMPLES / "digit-3.png").read_bytes()
THREADS = 16


def without_retries(channels: Sequence[grpc.Channel]) -> Callable[[], object]:
    """Return one call by the next of the channels, as a client does that knows nothing but to take turns."""
    raw = Choice().request([PICTURE]).SerializeToString()
    turn: itertools.count[int] = itertools.count()
    methods: list[Any] = [channel.unary_unary(CLASSIFY.path) for channel in channels]

    def call() -> object:
        try:
            return methods[next(turn) % len(methods)](raw, timeout=10.0)
        except grpc.RpcError as error:
            raise RuntimeError(error.code().name) from None

    return call


def measure(servers: Servers, call: Callable[[], object], rounds: int) -> str:
    """Restart all servers so many times under the callers and return what these saw."""
    callers = Callers(call, THREADS)
    started = time.monotonic()
    for _ in range(rounds):
        for number in range(len(servers.addresses)):
            callers.wait_for(20)
            servers.restart(number)
    callers.wait_for(20)
    tally = callers.stop()
    reasons = ", ".join(f"{count} {text}" for text, count in tally.failed.most_common(5))
    seconds = time.monotonic() - started
    failed = sum(tally.failed.values())
    return f"{failed} failed of {tally.answered + failed} in {seconds:.0f} s  {reasons}"


def main() -> None:
    """Measure both, on servers of the bundled model."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    servers = Servers(3)
    try:
        with Client(*servers.addresses) as client:
            print(f"the client:      {measure(servers, lambda: client.classify(PICTURE), rounds)}")
        options = [("grpc.enable_retries", 0), ("grpc.max_reconnect_backoff_ms", 1000)]
        channels = [grpc.insecure_channel(address, options) for address in servers.addresses]
        print(f"without retries: {measure(servers, without_retries(channels), rounds)}")
        for channel in channels:
            channel.close()
    finally:
        servers.close()


if __name__ == "__main__":
    main()
