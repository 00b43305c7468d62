"""Overload: how much of the peak is still answered in time when several times as much is asked.

A model of known cost (its session waits, so that the load has the cores to itself), a deadline, and calls that come at
random moments at a mean rate, whether earlier ones were answered or not; latency counts from the moment a call was due.

python -m tests.benchmarks.overload [--seconds 5] [--deadline-ms 200] [--kind pixels|jpeg]
"""

import argparse
import asyncio
import io
import random
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from service.config import load_settings
from service.metrics import Metrics
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb
from service.server import Server
from tests.fakes import Batch, HeldSession, uniform
from tests.onnx_models import pictures, write_model

CLASSIFY = "/saccade.v1.ImageClassifier/Classify"
COSTS = {1: 0.012, 2: 0.020, 4: 0.036, 8: 0.068}  # seconds a batch: 118 pictures a second at best
CAPACITY = 8 / COSTS[8]


def slow(batch: Batch) -> Any:  # noqa: ANN401 - an array
    """Take as long as a batch of this size is said to take."""
    time.sleep(COSTS[min(bucket for bucket in COSTS if bucket >= len(batch))])
    return uniform(batch)


async def offer(address: str, request: bytes, rate: float, seconds: float, deadline: float) -> Counter[str]:
    """Send calls at a mean rate; return how many were answered in time, answered late, and failed by status."""
    numbers = random.Random(0)
    outcome: Counter[str] = Counter()
    channels = [grpc.aio.insecure_channel(address, [("saccade.channel", number)]) for number in range(4)]
    methods: list[Any] = [channel.unary_unary(CLASSIFY) for channel in channels]

    async def call(due: float, method: Any) -> None:  # noqa: ANN401 - gRPC's own
        left = due + deadline - time.monotonic()
        if left <= 0:
            outcome["client late"] += 1
            return
        try:
            await method(request, timeout=left)
        except grpc.aio.AioRpcError as error:
            outcome[error.code().name] += 1
        else:
            outcome["in time" if time.monotonic() <= due + deadline else "late"] += 1

    due = time.monotonic()
    end = due + seconds
    tasks: list[asyncio.Task[None]] = []
    while due < end:
        due += numbers.expovariate(rate)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        tasks.append(asyncio.create_task(call(due, methods[len(tasks) % len(methods)])))
    await asyncio.gather(*tasks)
    for channel in channels:
        await channel.close()
    return outcome


def offer_all(address: str, request: bytes, rate: float, seconds: float, deadline: float) -> Counter[str]:
    """Do what `offer` does in a process of its own."""
    return asyncio.run(offer(address, request, rate, seconds, deadline))


def message(kind: str) -> bytes:
    """Return a request with one picture of that kind."""
    picture = pictures(1)[0]
    if kind == "jpeg":
        file = io.BytesIO()
        Image.fromarray(np.kron(picture[:, :, 0], np.ones((40, 40), np.uint8))).save(file, "JPEG")
        return pb.ClassifyRequest(images=[pb.Image(encoded=file.getvalue())]).SerializeToString()
    height, width, channels = picture.shape
    pixels = pb.Pixels(height=height, width=width, channels=channels, data=picture.tobytes())
    return pb.ClassifyRequest(images=[pb.Image(pixels=pixels)]).SerializeToString()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds a row")
    parser.add_argument("--deadline-ms", type=float, default=200.0)
    parser.add_argument("--kind", choices=["pixels", "jpeg"], default="pixels")
    given = parser.parse_args()
    metrics = Metrics()
    session = HeldSession(slow)
    session.gate.set()
    load = session.load(queue_size=256, costs=COSTS)
    load.metrics = metrics
    table = Table("offered, of capacity", "answered in time a second", "of the peak", "late", "refused", "expired")
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, get_context("spawn")) as loader:
        write_model(Path(folder) / "linear" / "1")
        settings = load_settings(repository=Path(folder), host="127.0.0.1", grpc_port=0, metrics_port=0)
        server = Server(settings, load=load, metrics=metrics)
        server.start()
        peak = 0.0
        for times in (0.7, 0.9, 1.0, 1.5, 3.0, 5.0):
            address, deadline = f"127.0.0.1:{server.grpc_port}", given.deadline_ms / 1000
            request = message(given.kind)
            outcome = loader.submit(offer_all, address, request, times * CAPACITY, given.seconds, deadline).result()
            good = outcome["in time"] / given.seconds
            peak = max(peak, good)
            counts = [str(outcome[name]) for name in ("late", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED")]
            table.add_row(f"{times:g}", f"{good:.0f}", f"{good / peak:.2f}", *counts)
            sys.stderr.write(f"{times:g}: {dict(outcome)}\n")
        server.drain(delay=0, refuse=0)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
