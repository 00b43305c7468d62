"""Fakes that are passed in where a test must hold the server still or make it fail."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from service.manifest import Manifest
from service.metrics import Metrics
from service.model import Facts, Model, Options
from service.server import Server
from service.session import Session
from service.tensors import Tensor
from tests.onnx_models import LABELS, SPEC

WAIT = 20.0
"""Seconds after which something that must happen counts as never happening."""

Batch = npt.NDArray[np.uint8]


def uniform(batch: Batch) -> npt.NDArray[np.float32]:
    """Answer as a model that knows nothing."""
    return np.full((len(batch), len(LABELS)), 1 / len(LABELS), np.float32)


class HeldSession:
    """A session whose runs wait until the test opens the gate; counts what it was given."""

    def __init__(self, answer: Callable[[Batch], npt.NDArray[np.float32]] = uniform) -> None:
        self.on_own_thread = True
        self.input = Tensor("image", "UINT8", (-1, SPEC.height, SPEC.width, SPEC.channels), "NHWC")
        self.answer = answer
        self.gate = threading.Event()
        self.began = threading.Semaphore(0)
        self.pictures = 0

    def run(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Count the batch, say that it began, wait for the gate, answer."""
        self.pictures += len(batch)
        self.began.release()
        assert self.gate.wait(WAIT), "the test never opened the gate"
        return self.answer(batch)

    def load(self, *, queue_size: int = 8, max_batch_size: int = 1, seconds: float = 0.0) -> "HeldLoad":
        """Return what a Repository calls to load a version: a model around this session."""
        return HeldLoad(self, queue_size, max_batch_size, seconds)


class HeldLoad:
    """Loads every version as a model around one held session.

    Args:
        session: the fake.
        queue_size: of the model's queue.
        max_batch_size: of its batches.
        seconds: what a batch is said to cost.
    """

    def __init__(self, session: HeldSession, queue_size: int, max_batch_size: int, seconds: float) -> None:
        self._session = session
        self._options = Options(queue_size=queue_size, max_batch_size=max_batch_size)
        self._costs = {max_batch_size: seconds}
        self.metrics: Metrics | None = None

    def __call__(self, path: Path, name: str, version: int) -> Model:
        """Return the model."""
        assert self.metrics is not None, "set metrics first"
        return Model(
            Facts(name, version, "cpu", "fp32", verified=True, sha256="0" * 64),
            Manifest(labels=LABELS, preprocessing=SPEC),
            cast("Session", self._session),
            costs=self._costs,
            options=self._options,
            metrics=self.metrics,
        )


def until_waiting(server: Server, pictures_waiting: int) -> None:
    """Return when so many pictures wait in the queue of the server's only model."""
    waiting = threading.Event()
    for _ in range(int(WAIT / 0.005)):
        depth = server.metrics.registry.get_sample_value("saccade_queue_depth", {"model": "linear", "version": "1"})
        if depth == pictures_waiting:
            return
        waiting.wait(0.005)
    raise AssertionError(f"{pictures_waiting} pictures never waited")
