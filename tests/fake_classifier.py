"""A gRPC server of saccade.v1.ImageClassifier whose answers the test decides, with grpc.health.v1 beside it."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from service.client.policy import SERVICE
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb
from tests.fakes import WAIT

Answer = Callable[["Seen", grpc.ServicerContext], pb.ClassifyResponse]


class Seen:
    """What the server saw of one Classify call or of one message of a stream."""

    def __init__(self, request: pb.ClassifyRequest, context: grpc.ServicerContext, number: int) -> None:
        metadata = dict(context.invocation_metadata())
        self.request, self.number = request, number
        self.seconds: float = context.time_remaining()
        self.repeats_by_grpc = int(metadata.get("grpc-previous-rpc-attempts", 0))


def named(name: str) -> Answer:
    """Return what answers at once, with this name for the model."""
    return lambda seen, _: pb.ClassifyResponse(model=name, id=seen.request.id)


def failing(times: int, code: grpc.StatusCode, *trailing: tuple[str, str]) -> Answer:
    """Return what fails so many times, and then answers."""

    def answer(seen: Seen, context: grpc.ServicerContext) -> pb.ClassifyResponse:
        if seen.number < times:
            context.set_trailing_metadata(trailing)
            context.abort(code, "as the test wants it")
        return pb.ClassifyResponse(id=seen.request.id)

    return answer


class HeldAnswer:
    """An answer that comes when the test opens the gate."""

    def __init__(self) -> None:
        self.began, self.gate = threading.Event(), threading.Event()

    def __call__(self, seen: Seen, _: grpc.ServicerContext) -> pb.ClassifyResponse:
        """Say that a call came, and wait."""
        self.began.set()
        self.gate.wait(WAIT)
        return pb.ClassifyResponse(id=seen.request.id)


class FakeClassifier:
    """Answers Classify and ClassifyStream as told and keeps what it saw; its health is the test's to set.

    Args:
        answer: gives the answer or aborts.
        host: to listen on.
        port: likewise; 0 for any.
    """

    def __init__(self, answer: Answer, host: str = "127.0.0.1", port: int = 0) -> None:
        self._answer = answer
        self.seen: list[Seen] = []
        self._health = health.HealthServicer()
        options = [("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)]
        self._server = grpc.server(ThreadPoolExecutor(8), options=options)
        unary: Any = grpc.unary_unary_rpc_method_handler(
            self._unary, pb.ClassifyRequest.FromString, pb.ClassifyResponse.SerializeToString
        )
        stream: Any = grpc.stream_stream_rpc_method_handler(
            self._stream, pb.ClassifyRequest.FromString, pb.ClassifyStreamResponse.SerializeToString
        )
        methods = {"Classify": unary, "ClassifyStream": stream}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self.port = self._server.add_insecure_port(f"{host}:{port}")
        self.address = f"{host}:{self.port}"
        self.serving(yes=True)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop(None).wait(WAIT)

    def serving(self, *, yes: bool) -> None:
        """Set its health, which says nothing about whether it answers."""
        states = health_pb2.HealthCheckResponse
        for service in ("", SERVICE):
            self._health.set(service, states.SERVING if yes else states.NOT_SERVING)

    def _unary(self, request: pb.ClassifyRequest, context: grpc.ServicerContext) -> pb.ClassifyResponse:
        seen = Seen(request, context, len(self.seen))
        self.seen.append(seen)
        return self._answer(seen, context)

    def _stream(
        self, requests: Iterator[pb.ClassifyRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.ClassifyStreamResponse]:
        for request in requests:
            response = self._unary(request, context)
            yield pb.ClassifyStreamResponse(id=request.id, response=response)
