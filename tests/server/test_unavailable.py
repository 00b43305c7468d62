"""The statuses of a server that starts, drains, or whose model gives nonsense; over a real socket."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from service.config import load_settings
from service.metrics import Metrics
from service.model import Model
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb
from service.server import Server
from tests.conftest import Channel, Connect, StartServer
from tests.fakes import WAIT, HeldSession, uniform
from tests.onnx_models import pictures

PICTURE = pb.Image(pixels=pb.Pixels(height=8, width=8, channels=1, data=pictures(1)[0].tobytes()))
REQUEST = pb.ClassifyRequest(images=[PICTURE])


def classify(channel: grpc.Channel) -> Callable[..., Any]:
    """Return Classify on a bare channel."""
    method: Any = channel.unary_unary(
        "/saccade.v1.ImageClassifier/Classify",
        request_serializer=pb.ClassifyRequest.SerializeToString,
        response_deserializer=pb.ClassifyResponse.FromString,
    )
    return lambda: method(REQUEST, timeout=WAIT)


def test_starting(repository: Path, channel: Channel) -> None:
    """While a model is being loaded a call is UNAVAILABLE and says so; afterwards it is answered."""
    listening, go_on = threading.Event(), threading.Event()
    session, metrics = HeldSession(), Metrics()
    session.gate.set()
    load = session.load()
    load.metrics = metrics

    def slow(path: Path, name: str, version: int) -> Model:
        listening.set()
        assert go_on.wait(WAIT)
        return load(path, name, version)

    settings = load_settings(repository=repository, host="127.0.0.1", grpc_port=0, metrics_port=0)
    server = Server(settings, load=slow, metrics=metrics)
    starting = threading.Thread(target=server.start)
    starting.start()
    assert listening.wait(WAIT)
    call = classify(channel(server))
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "is being loaded" in (caught.value.details() or "")
    go_on.set()
    starting.join(WAIT)
    assert call().model == "linear"
    server.drain(delay=0, refuse=0)


def test_draining(start_server: StartServer, channel: Channel, repository: Path) -> None:
    """A call that comes while the server drains is UNAVAILABLE and says so; the call before it is answered."""
    session = HeldSession()
    server: Server = start_server(repository, load=session.load())
    opened = channel(server)
    answers: list[Any] = []
    accepted = threading.Thread(target=lambda: answers.append(classify(opened)()))
    accepted.start()
    assert session.began.acquire(timeout=WAIT)
    drain = threading.Thread(target=lambda: server.drain(delay=0, refuse=WAIT / 10))
    drain.start()
    for _ in range(1000):
        with pytest.raises(grpc.RpcError) as caught:
            opened.unary_unary(
                "/saccade.v1.ImageClassifier/Classify",
                request_serializer=pb.ClassifyRequest.SerializeToString,
                response_deserializer=pb.ClassifyResponse.FromString,
            )(REQUEST, timeout=0.1)
        if caught.value.code() is grpc.StatusCode.UNAVAILABLE:
            break
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "draining" in (caught.value.details() or "")
    session.gate.set()
    accepted.join(WAIT)
    drain.join(WAIT)
    assert answers[0].model == "linear"


def test_values_that_are_not_finite(
    start_server: StartServer, channel: Channel, connect: Connect, repository: Path
) -> None:
    """A call that gets NaN is INTERNAL with an id, and ListModels marks the version; the next call is answered."""
    broken = [True, False]
    session = HeldSession(lambda batch: uniform(batch) * np.float32(np.nan if broken.pop(0) else 1))
    session.gate.set()
    server: Server = start_server(repository, load=session.load())
    call = classify(channel(server))
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert (caught.value.details() or "").startswith("internal error ")
    assert call().model == "linear"
    assert "not finite" in connect(server).models()[0].reason
