"""Overload on a real server, five times slower than the benchmark so that a busy machine changes nothing."""

import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.load.outcome import Outcome
from service.load.plan import Load
from service.load.processes import Loaders
from service.metrics import Metrics
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb
from tests.conftest import StartServer
from tests.fakes import Batch, HeldSession, uniform
from tests.onnx_models import pictures

COSTS = {1: 0.06, 2: 0.10, 4: 0.18, 8: 0.34}  # seconds a batch: 23.5 pictures a second at best
CAPACITY = 8 / COSTS[8]
DEADLINE = 1.0
SECONDS = 8.0
CLASSIFY = "/saccade.v1.ImageClassifier/Classify"


def slow(batch: Batch) -> Any:  # noqa: ANN401 - an array
    """Take as long as a batch of this size is said to take."""
    time.sleep(COSTS[min(bucket for bucket in COSTS if bucket >= len(batch))])
    return uniform(batch)


def raw() -> pb.Image:
    """Return raw pixels of the model's size."""
    picture = pictures(1)[0]
    height, width, channels = picture.shape
    return pb.Image(pixels=pb.Pixels(height=height, width=width, channels=channels, data=picture.tobytes()))


def jpeg() -> pb.Image:
    """Return a picture that must be decoded and resized."""
    file = io.BytesIO()
    Image.fromarray(np.kron(pictures(1)[0][:, :, 0], np.ones((40, 40), np.uint8))).save(file, "JPEG")
    return pb.Image(encoded=file.getvalue())


@pytest.mark.slow
@pytest.mark.parametrize("picture", [raw(), jpeg()], ids=["raw", "JPEG"])
def test_goodput_stays_at_its_peak(start_server: StartServer, repository: Path, picture: pb.Image) -> None:
    """At five times the capacity nine tenths of the peak are answered in time, nothing late, and hardly one expires."""
    session, metrics = HeldSession(slow), Metrics()
    session.gate.set()
    server = start_server(repository, load=session.load(queue_size=256, costs=COSTS), metrics=metrics)
    body = pb.ClassifyRequest(images=[picture]).SerializeToString()
    with Loaders() as loaders:

        def offer(times: float) -> Outcome:
            rate = times * CAPACITY
            return loaders.run(
                Load(f"127.0.0.1:{server.grpc_port}", CLASSIFY, body, 1, SECONDS, 1.0, DEADLINE, rate=rate)
            )

        peak = max(offer(0.9).goodput, offer(1.2).goodput)
        overload = offer(5.0)
    assert overload.goodput >= 0.9 * peak
    assert overload.arrived == overload.good
    assert overload.refused_share > 0.5
    assert overload.failed["DEADLINE_EXCEEDED"] <= 0.05 * overload.answered
    computed = metrics.registry.get_sample_value("saccade_images_total", {"model": "linear"})
    assert computed == session.pictures  # what was refused was never computed
