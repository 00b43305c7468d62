"""What gRPC itself does for a client's channels: balance, check health, repeat. A service config, as gRPC calls it."""

import json
from typing import Any

from ..connection import Connection, Option
from ..rpc.pb.saccade.v1 import classifier_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["ImageClassifier"].full_name

_RETRY = {
    # Few and soon, since a deadline that passes within them hides why there was no answer. Beyond them, and for
    # RESOURCE_EXHAUSTED, which is repeated only when the server says when, and gRPC has no word for that, the client's
    # own attempts go on until the deadline: see attempts.py.
    "maxAttempts": 3,
    "initialBackoff": "0.02s",
    "maxBackoff": "0.05s",
    "backoffMultiplier": 2,
    # gRPC repeats no CANCELLED that this side asked for. Servers that stop answer so in a race: 1 call of 15 stops.
    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
}
_THROTTLING = {"maxTokens": 100, "tokenRatio": 0.1}
"""Once more than 50 calls failed, less one for ten that did not, gRPC repeats none."""


def several_servers(connection: Connection) -> bool:
    """Return whether calls have a choice: more addresses, or every record of a name."""
    [first, *more] = connection.addresses
    return bool(more) or first.startswith("dns:") or (first.startswith(("ipv4:", "ipv6:")) and "," in first)


def options(connection: Connection, links: int) -> tuple[Option, ...]:
    """Return the options of each channel of a client that has so many."""
    config: dict[str, Any] = {"loadBalancingConfig": [{"pick_first": {}}]}
    if several_servers(connection):
        # A server that says NOT_SERVING, because it will stop, gets no calls. Not with one address: behind it may be a
        # balancer that a new connection finds another server through, and a server that drains still answers.
        config = {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": SERVICE}}
    if links == 1:
        names = [{"service": SERVICE, "method": method} for method in ("Classify", "ListModels")]
        config |= {"methodConfig": [{"name": names, "retryPolicy": _RETRY}], "retryThrottling": _THROTTLING}
    # With more channels than one, the next is a better place for a repeat than the one that has just failed.
    return (
        ("grpc.service_config", json.dumps(config)),
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.enable_retries", 1),
        ("grpc.per_rpc_retry_buffer_size", connection.max_message_bytes),  # 256 KiB: larger calls are never repeated
    )
