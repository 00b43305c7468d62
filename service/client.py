"""The Python client: channels, retries, deadlines, typed results; failures are the exceptions of service.errors.

with Client("localhost:8001") as client:
    answer = client.classify(Path("cat.jpg"))
    print(answer.classifications[0][0].label)
"""

import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar

import grpc
import numpy as np
import numpy.typing as npt
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_status import rpc_status

from service.connection import Connection
from service.errors import (
    DeadlineExceeded,
    InferenceFailed,
    InvalidInput,
    Overloaded,
    SaccadeError,
    Unavailable,
    UnknownModel,
)
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb

Picture: TypeAlias = Path | bytes | npt.NDArray[np.uint8]
"""A file, its bytes, or decoded pixels: uint8 [height, width] or [height, width, 1 or 3]."""

Reply = TypeVar("Reply")

_SERVICE = pb.DESCRIPTOR.services_by_name["ImageClassifier"].full_name
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0
_PUSHBACK = "grpc-retry-pushback-ms"
_ERRORS: dict[grpc.StatusCode, type[SaccadeError]] = {
    grpc.StatusCode.NOT_FOUND: UnknownModel,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.CANCELLED: Unavailable,  # this side asked for none: a server that stops answers so in a race
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.INTERNAL: InferenceFailed,
}


@dataclass(frozen=True, slots=True)
class Category:
    """One class and its probability, from 0 to 1."""

    index: int
    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What one call gives: the model that answered, and for each picture its categories, the most probable first."""

    model: str
    version: str
    classifications: list[list[Category]]
    decode_ms: float
    queue_ms: float
    inference_ms: float
    batch_size: int


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One version that a server knows; the fields are those of the message Model."""

    name: str
    version: str
    state: str
    reason: str
    default: bool
    verified: bool
    architecture: str
    provider: str
    precision: str
    height: int
    width: int
    channels: int
    labels: tuple[str, ...]
    accuracy: float
    data: str
    sha256: str
    max_batch_size: int


class Client:
    """A connection to one server, or to several that serve the same models.

    A call that finds its server gone, starting or draining goes to the next one; a refused one comes back when the
    server said so; both until the deadline. Classifying twice does no harm, so every call may be repeated.

    Args:
        addresses: `host:port`, one or more; else those of `connection`.
        connection: how to reach them: TLS, token, keepalive, largest message.
        timeout: seconds that a call may take, repeats included, where the call says nothing else.

    Raises:
        SetupError: the connection cannot be made as described.
    """

    def __init__(self, *addresses: str, connection: Connection | None = None, timeout: float = 10.0) -> None:
        if not addresses and connection is None:
            raise ValueError("Client needs at least one address, for example Client('localhost:8001')")
        connection = connection or Connection()
        self._connection = replace(connection, addresses=addresses or connection.addresses)
        self._addresses = self._connection.addresses
        # Repeats are made here, where CANCELLED and several servers are understood.
        self._channels = [self._connection.open_channel(address) for address in self._addresses]
        self._current = 0
        self._timeout = timeout

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        for channel in self._channels:
            channel.close()

    def classify(
        self, *pictures: Picture, model: str = "", version: str = "", top_k: int = 0, timeout: float | None = None
    ) -> Answer:
        """Return the most probable categories of each picture.

        Args:
            pictures: files, bytes or pixels.
            model: name; empty for the server's default.
            version: a whole number; empty for the newest.
            top_k: how many categories; 0 means 5.
            timeout: seconds; None for the client's own.

        Raises:
            InvalidInput, UnknownModel, Overloaded, Unavailable, DeadlineExceeded, InferenceFailed: see service.errors.
        """
        request = pb.ClassifyRequest(
            model=model, version=version, images=[_image(picture) for picture in pictures], top_k=top_k
        )
        reply = self._call(f"/{_SERVICE}/Classify", request, pb.ClassifyResponse.FromString, timeout)
        timing = reply.timing
        return Answer(
            model=reply.model,
            version=reply.version,
            classifications=[
                [Category(best.index, best.label, best.probability) for best in row.categories]
                for row in reply.classifications
            ],
            decode_ms=timing.decode_ms,
            queue_ms=timing.queue_ms,
            inference_ms=timing.inference_ms,
            batch_size=timing.batch_size,
        )

    def models(self, *, timeout: float | None = None) -> list[ModelEntry]:
        """Return every version that the server knows, by name, the highest first."""
        reply = self._call(f"/{_SERVICE}/ListModels", pb.ListModelsRequest(), pb.ListModelsResponse.FromString, timeout)
        return [_entry(model) for model in reply.models]

    def ready(self, service: str = "", *, timeout: float = 1.0) -> bool:
        """Return whether a server says SERVING of a service: "" for all of it, or a model's name. Never raises."""
        request = health_pb2.HealthCheckRequest(service=service)
        for channel in self._channels:
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            try:
                if (
                    check(request, timeout=timeout, metadata=self._connection.metadata()).status
                    == health_pb2.HealthCheckResponse.SERVING
                ):
                    return True
            except grpc.RpcError:
                continue
        return False

    def _call(self, method: str, request: Any, parse: Callable[[bytes], Reply], timeout: float | None) -> Reply:  # noqa: ANN401
        """Call until it is answered, fails for good, or the deadline passes."""
        deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
        pause = _FIRST_PAUSE
        failed = 0
        while True:
            at = self._current
            send = self._channels[at].unary_unary(
                method, request_serializer=type(request).SerializeToString, response_deserializer=parse
            )
            try:
                reply: Reply = send(
                    request, timeout=max(0.0, deadline - time.monotonic()), metadata=self._connection.metadata()
                )
            except grpc.RpcError as error:
                failure = _failure(error, self._addresses[at])
                if isinstance(failure, Unavailable):
                    self._current = (at + 1) % len(self._channels)
                    failed += 1
                    # The next server is asked at once; after a round without success all are left alone a while.
                    wait = 0.0 if failed % len(self._channels) else pause * random.uniform(0.5, 1.0)  # noqa: S311
                    pause = pause if wait == 0.0 else min(2 * pause, _LONGEST_PAUSE)
                elif isinstance(failure, Overloaded) and failure.in_time:
                    wait = failure.retry_after
                else:
                    raise failure from None
                if time.monotonic() + wait >= deadline:
                    raise failure from None
            else:
                return reply
            time.sleep(wait)


def _image(picture: Picture) -> pb.Image:
    if isinstance(picture, Path):
        return pb.Image(encoded=picture.read_bytes())
    if isinstance(picture, bytes):
        return pb.Image(encoded=picture)
    height, width, *channels = picture.shape
    if picture.dtype != np.uint8 or len(channels) > 1:
        raise InvalidInput(
            "pictures", f"an array is {picture.dtype} {picture.shape}; it must be uint8 [height, width, channels]"
        )
    return pb.Image(
        pixels=pb.Pixels(height=height, width=width, channels=channels[0] if channels else 1, data=picture.tobytes())
    )


def _entry(model: pb.Model) -> ModelEntry:
    fields = {field.name: getattr(model, field.name) for field in pb.Model.DESCRIPTOR.fields}
    return ModelEntry(**{**fields, "state": pb.State.Name(model.state), "labels": tuple(model.labels)})


def _failure(error: grpc.RpcError, address: str) -> SaccadeError:
    """Return the service's own exception for a failed call."""
    code, text = error.code(), error.details() or ""
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return _invalid(error, text)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return _overloaded(error, text)
    kind = _ERRORS.get(code)
    return kind(f"{address}: {text}") if kind else SaccadeError(f"{address}: {code.name}: {text}")


def _invalid(error: grpc.RpcError, text: str) -> InvalidInput:
    for detail in _details(error):
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad) and bad.field_violations:
            return InvalidInput(bad.field_violations[0].field, bad.field_violations[0].description)
    return InvalidInput("request", text)


def _overloaded(error: grpc.RpcError, text: str) -> Overloaded:
    """Return the refusal; without a push-back (a message over the cap, say) trying again does not help."""
    pushback = next((int(value) for key, value in _trailing(error) if key == _PUSHBACK), -1)
    return Overloaded(text, reason="queue_full", retry_after=max(0, pushback) / 1000, in_time=pushback >= 0)


def _trailing(error: grpc.RpcError) -> Iterable[tuple[str, str]]:
    pairs: Iterable[tuple[str, str]] = error.trailing_metadata() or ()  # type: ignore[assignment]
    return pairs


def _details(error: grpc.RpcError) -> Sequence[Any]:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    return status.details if status is not None else ()
