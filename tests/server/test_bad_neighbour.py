"""One caller that does everything wrong, beside sixteen who do everything right."""

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from service import image
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb
from tests.conftest import Channel, StartServer
from tests.fakes import WAIT
from tests.onnx_models import pictures

GOOD_CALLERS = 16
GOOD_CALLS = 40
CLASSIFY, STREAM = "/saccade.v1.ImageClassifier/Classify", "/saccade.v1.ImageClassifier/ClassifyStream"
PICTURE = image.encode_png(pictures(1)[0])
GOOD = pb.ClassifyRequest(images=[pb.Image(encoded=PICTURE)]).SerializeToString()
BAD = [
    b"no message",
    pb.ClassifyRequest().SerializeToString(),
    pb.ClassifyRequest(model="nobody", images=[pb.Image(encoded=PICTURE)]).SerializeToString(),
    pb.ClassifyRequest(images=[pb.Image(encoded=PICTURE[:-40])]).SerializeToString(),
    pb.ClassifyRequest(
        images=[pb.Image(encoded=PICTURE), pb.Image(encoded=b"\xff\xd8\xff" * 1000)]
    ).SerializeToString(),
    pb.ClassifyRequest(
        images=[pb.Image(pixels=pb.Pixels(height=9, width=9, channels=1, data=b""))]
    ).SerializeToString(),
    pb.ClassifyRequest(images=[pb.Image(encoded=PICTURE)] * 500).SerializeToString(),
    bytes(1 << 20),
]


class Nuisance:
    """Sends what is wrong in every way, and leaves in every way, until it is told to stop."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._unary: Any = channel.unary_unary(CLASSIFY, request_serializer=None, response_deserializer=None)
        self._stream: Any = channel.stream_stream(STREAM, request_serializer=None, response_deserializer=None)
        self._numbers = random.Random(0)
        self.stop = threading.Event()
        self.done = 0

    def run(self) -> None:
        """Make trouble."""
        ways = [self._wrong, self._in_a_hurry, self._leaves, self._breaks_a_stream, self._sends_nothing]
        while not self.stop.is_set():
            self._numbers.choice(ways)()
            self.done += 1

    def _wrong(self) -> None:
        with pytest.raises(grpc.RpcError):
            self._unary(self._numbers.choice(BAD), timeout=WAIT)

    def _in_a_hurry(self) -> None:
        self._unary.future(GOOD, timeout=0.001).exception(WAIT)

    def _leaves(self) -> None:
        calls = [self._unary.future(GOOD, timeout=WAIT) for _ in range(4)]
        for call in calls:
            call.cancel()

    def _breaks_a_stream(self) -> None:
        call = self._stream(iter([GOOD, self._numbers.choice(BAD), GOOD]), timeout=WAIT)
        next(call)
        call.cancel()

    def _sends_nothing(self) -> None:
        go = threading.Event()

        def never() -> Iterator[bytes]:
            go.wait(WAIT)
            yield from ()

        call = self._stream(never(), timeout=0.01)
        with pytest.raises(grpc.RpcError):
            next(call)
        go.set()


def test_good_callers_lose_nothing(start_server: StartServer, channel: Channel, repository: Path) -> None:
    """Every call of sixteen good callers is answered while another does everything wrong."""
    server = start_server(repository)
    nuisance = Nuisance(channel(server))
    trouble = threading.Thread(target=nuisance.run)
    trouble.start()

    def good(number: int) -> int:
        call: Any = channel(server).unary_unary(CLASSIFY, request_serializer=None, response_deserializer=None)
        return sum(bool(call(GOOD, timeout=WAIT)) for _ in range(GOOD_CALLS))

    with ThreadPoolExecutor(GOOD_CALLERS) as callers:
        answered = list(callers.map(good, range(GOOD_CALLERS)))
    nuisance.stop.set()
    trouble.join(WAIT)
    assert answered == [GOOD_CALLS] * GOOD_CALLERS
    assert nuisance.done > 10
