"""Overload: how much of the peak is still answered in time when five times as much is asked.

A model of known cost (its session waits, so that the load has the cores to itself), and the bundled ResNet-20, which
computes on the cores of its callers; deadlines of 200 ms, and calls that come at random moments at a mean rate, whether
earlier ones were answered or not; latency counts from the moment a call was due. The peak is the best of all rates.
"""

import io
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image

from service.config import load_settings
from service.load.plan import Load
from service.load.processes import Loaders
from service.metrics import Metrics
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb
from service.server import Server
from tests.benchmarks.lenet import CLASSIFY
from tests.benchmarks.machine import measure
from tests.benchmarks.table import Compared, Group, Line, Plan, Step
from tests.fakes import Batch, HeldSession, Job, uniform
from tests.onnx_models import pictures, write_model
from tests.processes import ServerProcess

COSTS = {1: 0.012, 2: 0.020, 4: 0.036, 8: 0.068}  # seconds a batch: 118 pictures a second at best
CAPACITY = 8 / COSTS[8]
DEADLINE = 0.2
UP_TO = (0.7, 0.9, 1.0, 1.5, 3.0)
"""Offered, in capacities: the best of them is the peak."""
BEYOND = 5.0
HEALTH_CALLS = 100
CALLERS = 16
"""At once, to find out what a model that computes can do."""
LONGER = 1.25
"""Times the seconds of other rows: arrivals are at random."""
COMPUTING = "resnet20-cifar10"
PICTURES = 8
"""A call of the model that computes: 6 ms of work, so that one process can offer five times what two cores answer."""
ROWS = {f"five times the capacity, {kind}, 200 ms deadlines": kind for kind in ("raw pixels", "JPEG", COMPUTING)}


class Asked(NamedTuple):
    """A server under load: its address and process, what it is asked, and how many of that it can answer a second."""

    address: str
    pid: int
    body: bytes
    capacity: float


def slow(batch: Batch) -> Any:  # noqa: ANN401 - an array
    """Take as long as a batch of this size is said to take."""
    time.sleep(COSTS[min(bucket for bucket in COSTS if bucket >= len(batch))])
    return uniform(batch)


def message(kind: str) -> bytes:
    """Return a request with one picture of that kind."""
    picture = pictures(1)[0]
    if kind == "JPEG":
        file = io.BytesIO()
        Image.fromarray(np.kron(picture[:, :, 0], np.ones((40, 40), np.uint8))).save(file, "JPEG")
        return pb.ClassifyRequest(images=[pb.Image(encoded=file.getvalue())]).SerializeToString()
    height, width, channels = picture.shape
    pixels = pb.Pixels(height=height, width=width, channels=channels, data=picture.tobytes())
    return pb.ClassifyRequest(images=[pb.Image(pixels=pixels)]).SerializeToString()


def health(address: str, over: threading.Event, most: int = 1_000_000) -> list[float]:
    """Ask for the server's health, fifty times a second, until it is over; return the milliseconds of each answer."""
    with grpc.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        taken = list[float]()
        while len(taken) < most and not over.wait(0.02):
            started = time.monotonic()
            stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
            taken.append((time.monotonic() - started) * 1000)
    return taken


def _p99(milliseconds: Sequence[float]) -> float:
    return float(np.percentile(milliseconds, 99))


@contextmanager
def waiting(kind: str) -> Iterator[Asked]:
    """Serve a model that waits, in this process."""
    session = HeldSession(slow)
    session.gate.set()
    held = session.load(queue_size=256, costs=COSTS)
    held.metrics = metrics = Metrics()
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder) / "linear" / "1")
        settings = load_settings(repository=Path(folder), host="127.0.0.1", grpc_port=0, metrics_port=0)
        server = Server(settings, load=held, metrics=metrics)
        server.start()
        yield Asked(f"127.0.0.1:{server.grpc_port}", os.getpid(), message(kind), CAPACITY)
        server.drain(delay=0, refuse=0)


@contextmanager
def computing(loaders: Loaders) -> Iterator[Asked]:
    """Serve the bundled models in a process of their own, by the defaults; what it can do is measured."""
    pixels = pb.Pixels(height=32, width=32, channels=3, data=bytes(32 * 32 * 3))
    body = pb.ClassifyRequest(model=COMPUTING, images=[pb.Image(pixels=pixels)] * PICTURES).SerializeToString()
    with ServerProcess(None) as server:
        alone = measure(loaders, server.process.pid, Load(server.address, CLASSIFY, body, CALLERS, 2.0))
        yield Asked(server.address, server.process.pid, body, alone.outcome.rate)


def lines(names: Sequence[str], plan: Plan, step: Step) -> Iterator[Line]:
    """Measure the rows of these names."""
    for name in names:
        kind = ROWS[name]
        with Loaders() as loaders, computing(loaders) if kind == COMPUTING else waiting(kind) as under:
            peak, seconds = 0.0, plan.seconds * LONGER
            at_rest = health(under.address, threading.Event(), HEALTH_CALLS)
            for times in (*UP_TO, BEYOND):
                rate = times * under.capacity
                load = Load(under.address, CLASSIFY, under.body, 1, seconds, 0.0, DEADLINE, rate=rate)
                over = threading.Event()
                asked = Job(partial(health, under.address, over))
                measured = measure(loaders, under.pid, load)
                over.set()
                beyond = asked.answer()
                peak = max(peak, measured.outcome.goodput)
                step(1 / (len(UP_TO) + 1))
        outcome = measured.outcome
        compared = [
            Compared("answers a second in time: the peak", outcome.goodput, peak, ">= 0.9"),
            Compared("answers after their deadline: all", outcome.arrived - outcome.good, outcome.arrived, "0"),
            Compared("accepted and expired: answered", outcome.failed["DEADLINE_EXCEEDED"], outcome.answered),
            Compared("health p99 ms: of a server at rest", _p99(beyond), _p99(at_rest), "<= 50 ms"),
        ]
        yield Line(name, compared, [outcome], [measured.cpu])


GROUPS = [Group(list(ROWS), lambda plan: (len(UP_TO) + 1) * (plan.seconds * LONGER + 0.5) + 1, lines)]
