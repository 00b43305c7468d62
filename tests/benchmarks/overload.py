"""Overload: how much of the peak is still answered in time when several times as much is asked.

A model of known cost (its session waits, so that the load has the cores to itself), a deadline, and calls that come at
random moments at a mean rate, whether earlier ones were answered or not; latency counts from the moment a call was due.

python -m tests.benchmarks.overload [--seconds 5] [--deadline-ms 200] [--kind pixels|jpeg]
"""

import argparse
import io
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from service.config import load_settings
from service.load.plan import Load
from service.load.processes import Loaders
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
    held = session.load(queue_size=256, costs=COSTS)
    held.metrics = metrics
    table = Table("offered, of capacity", "answered in time a second", "of the peak", "late", "refused", "expired")
    with tempfile.TemporaryDirectory() as folder, Loaders() as loaders:
        write_model(Path(folder) / "linear" / "1")
        settings = load_settings(repository=Path(folder), host="127.0.0.1", grpc_port=0, metrics_port=0)
        server = Server(settings, load=held, metrics=metrics)
        server.start()
        peak = 0.0
        for times in (0.7, 0.9, 1.0, 1.5, 3.0, 5.0):
            load = Load(
                f"127.0.0.1:{server.grpc_port}",
                CLASSIFY,
                message(given.kind),
                1,
                given.seconds,
                0.0,
                given.deadline_ms / 1000,
                rate=times * CAPACITY,
            )
            outcome = loaders.run(load)
            peak = max(peak, outcome.goodput)
            counts = [str(outcome.failed[name]) for name in ("RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED")]
            late = str(outcome.arrived - outcome.good)
            table.add_row(f"{times:g}", f"{outcome.goodput:.0f}", f"{outcome.goodput / peak:.2f}", late, *counts)
            sys.stderr.write(f"{times:g}: {outcome.answered} answered, {dict(outcome.failed)}\n")
        server.drain(delay=0, refuse=0)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
