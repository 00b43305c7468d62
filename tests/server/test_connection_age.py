"""Connections that end when they are old: what callers see of it."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from service import image
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb
from tests.conftest import Channel, StartServer
from tests.fakes import WAIT
from tests.onnx_models import pictures

REQUEST = pb.ClassifyRequest(images=[pb.Image(encoded=image.encode_png(pictures(1)[0]))]).SerializeToString()
AGE = 0.5
ENOUGH = 3.0
"""Seconds for three answers, also on a busy machine."""
SERVICE = "/saccade.v1.ImageClassifier"


class Forwarder:
    """Counts the connections that a channel makes, by its changes of state."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.ready = threading.Semaphore(0)
        channel.subscribe(self._changed, try_to_connect=True)

    def _changed(self, state: grpc.ChannelConnectivity) -> None:
        if state is grpc.ChannelConnectivity.READY:
            self.ready.release()


def test_calls_do_not_notice(start_server: StartServer, repository: Path) -> None:
    """A channel of gRPC's defaults calls all the while its connections end and are made anew: no call fails.

    By default a call that meets the end of its connection before it was sent goes over the next one; with
    `grpc.enable_retries` 0 one such call failed in about a quarter of the runs.
    """
    server = start_server(repository, max_connection_age=AGE)
    opened: Any = grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}")
    connections = Forwarder(opened)
    over = threading.Event()
    failures: list[grpc.RpcError] = []
    answered = 0

    def call() -> None:
        nonlocal answered
        while not over.is_set():
            try:
                opened.unary_unary(f"{SERVICE}/Classify")(REQUEST, timeout=WAIT)
                answered += 1
            except grpc.RpcError as error:
                failures.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    try:
        for _ in range(4):
            assert connections.ready.acquire(timeout=WAIT)
    finally:
        over.set()
        caller.join()
        opened.close()
    assert failures == []
    assert answered


def test_streams_end_cleanly(start_server: StartServer, channel: Channel, repository: Path) -> None:
    """A stream that grows as old ends with UNAVAILABLE, what came before answered, so that it is opened anew."""
    opened: Any = channel(start_server(repository, max_connection_age=ENOUGH))
    over, read = threading.Event(), threading.Semaphore(3)
    sent = 0

    def requests() -> Iterator[bytes]:
        nonlocal sent
        while read.acquire(timeout=WAIT) and not over.is_set():
            sent += 1
            yield REQUEST

    stream = opened.stream_stream(f"{SERVICE}/ClassifyStream")(requests(), timeout=3 * WAIT)
    answers = [pb.ClassifyStreamResponse.FromString(next(stream)) for _ in range(3)]
    with pytest.raises(grpc.RpcError) as caught:
        next(stream)
    over.set()
    read.release()
    assert all(answer.HasField("response") for answer in answers)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "open a new one" in str(caught.value.details())
    assert sent == 3
