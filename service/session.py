"""ONNX Runtime: providers, warm-up, buckets and `run(batch)`; the only importer of onnxruntime.

ONNX Runtime falls back to the CPU without a word when a provider does not load, so a session here is made with one
provider and is refused unless that one comes first in what was made.
"""

import importlib
import importlib.metadata
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from service import logs
from service.errors import ModelRejected, SetupError

Provider = Literal["cuda", "cpu"]
Create = Callable[..., Any]
"""Makes ONNX Runtime's InferenceSession: (path, sess_options, providers)."""

_NAMES: dict[Provider, str] = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
_OPTIONS: dict[Provider, dict[str, str]] = {"cuda": {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}, "cpu": {}}
_FIXED_SHAPES: set[Provider] = {"cuda"}
"""Providers that choose their kernels anew for each batch size: a batch is padded to its bucket."""

_DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")


def check_runtime(installed: Callable[[str], str] = importlib.metadata.version) -> str:
    """Return the one ONNX Runtime distribution of this environment, as `name version`.

    Raises:
        SetupError: there is none, or more than one (they overwrite each other's files); the text gives the command.
    """
    found = []
    for name in _DISTRIBUTIONS:
        try:
            found.append(f"{name} {installed(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    if not found:
        raise SetupError(
            "ONNX Runtime is missing: run `pip install 'saccade[cpu]'`, or 'saccade[gpu]' on a CUDA machine"
        )
    if len(found) > 1:
        names = " ".join(entry.split()[0] for entry in found)
        raise SetupError(
            f"{' and '.join(found)} overwrite each other: `pip uninstall {names}`, then `pip install 'saccade[cpu]'`"
        )
    return found[0]


def candidates(choice: str, available: Sequence[str] | None = None) -> list[Provider]:
    """Return the providers to try, the best first: for `auto` all that this ONNX Runtime was built with."""
    built = _onnxruntime().get_available_providers() if available is None else available
    if choice == "auto":
        return [provider for provider, name in _NAMES.items() if name in built]
    return [provider for provider in _NAMES if provider == choice]


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def buckets(max_batch_size: int) -> list[int]:
    """Return the batch sizes that are warmed up: powers of two up to, and always, the largest batch."""
    powers = [1 << power for power in range(max_batch_size.bit_length()) if 1 << power < max_batch_size]
    return [*powers, max_batch_size]


class Session:
    """One model file on one provider: uint8 [N, H, W, C] in, float32 [N, classes] out.

    Args:
        model: the ONNX file.
        provider: the execution provider that must run it.
        intra_op_threads: threads that share one batch on the CPU; 0 for all cores that the process may use.
        max_batch_size: largest batch; its buckets are what `warm_up` runs.
        create: makes the InferenceSession; a test passes a fake.

    Raises:
        ModelRejected: the provider cannot run it, or its input and output are not those of a classifier.
    """

    def __init__(
        self,
        model: Path,
        provider: Provider,
        *,
        intra_op_threads: int,
        max_batch_size: int,
        create: Create | None = None,
    ) -> None:
        self.provider = provider
        self.buckets = buckets(max_batch_size)
        self._session = self._open(model, intra_op_threads or cores(), create or _onnxruntime().InferenceSession)
        for what, found in (("inputs", self._session.get_inputs()), ("outputs", self._session.get_outputs())):
            if len(found) != 1:
                raise ModelRejected(f"it has {len(found)} {what}; a classifier has one picture in and one row out")
        self._input, self._output = self._session.get_inputs()[0], self._session.get_outputs()[0]
        self._check_shapes()
        self._names = ([self._output.name], self._input.name)  # asked once: each time costs 3 us

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the input."""
        _, height, width, channels = self._input.shape
        return height, width, channels

    @property
    def classes(self) -> int:
        """How many classes the output has."""
        return int(self._output.shape[1])

    @property
    def on_own_thread(self) -> bool:
        """Whether only one thread may run it, as GPU providers want."""
        return self.provider != "cpu"

    def run(self, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return the probabilities [N, classes] of pictures [N, height, width, channels]."""
        size = len(batch)
        if self.provider in _FIXED_SHAPES:
            batch = self._padded(batch)
        outputs, name = self._names
        probabilities: npt.NDArray[np.float32] = self._session.run(outputs, {name: batch})[0]
        return probabilities if len(probabilities) == size else probabilities[:size]

    def warm_up(self, clock: Callable[[], float] = time.perf_counter) -> dict[int, float]:
        """Run every bucket on generated pictures; return the seconds that a batch of each takes.

        Raises:
            ModelRejected: an output has the wrong shape, is not finite or does not sum to 1.
        """
        random = np.random.default_rng(0)
        seconds = {}
        for bucket in self.buckets:
            batch = random.integers(0, 256, (bucket, *self.input_shape), dtype=np.uint8)
            check_probabilities(self.run(batch), bucket, self.classes)
            started = clock()
            self.run(batch)
            seconds[bucket] = clock() - started
        return seconds

    def _open(self, model: Path, threads: int, create: Create) -> Any:  # noqa: ANN401 - onnxruntime has no types
        options = _onnxruntime().SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning threads take the cores from everybody else: with one busy neighbour 29 ms became 107, without 66.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        name = _NAMES[self.provider]
        if self.provider == "cuda" and hasattr(_onnxruntime(), "preload_dlls"):
            _onnxruntime().preload_dlls()  # the CUDA and cuDNN that pip installed
        if self.provider != "cpu":
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        try:
            session = create(str(model), sess_options=options, providers=[(name, _OPTIONS[self.provider])])
        except Exception as error:  # noqa: BLE001 - providers raise what their libraries raise
            logs.failure("session failed", error, model=model, provider=self.provider)
            raise ModelRejected(f"ONNX Runtime cannot load it on {self.provider}; the log says why") from None
        actual = session.get_providers()
        if actual[0] != name:
            raise ModelRejected(f"{self.provider} was asked for, ONNX Runtime fell back to {actual[0]}")
        if self.provider != "cpu":
            _report_placement(session, model, name)
        return session

    def _check_shapes(self) -> None:
        image, scores = self._input, self._output
        if (
            image.type != "tensor(uint8)"
            or len(image.shape) != 4
            or not all(isinstance(n, int) for n in image.shape[1:])
        ):
            raise ModelRejected(
                f"its input is {image.type} {image.shape}; it must be tensor(uint8) [N, height, width, channels]"
            )
        if scores.type != "tensor(float)" or len(scores.shape) != 2 or not isinstance(scores.shape[1], int):
            raise ModelRejected(f"its output is {scores.type} {scores.shape}; it must be tensor(float) [N, classes]")
        if isinstance(image.shape[0], int):
            raise ModelRejected(f"its batch is fixed at {image.shape[0]}; export it with a free first dimension")

    def _padded(self, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        bucket = next((bucket for bucket in self.buckets if bucket >= len(batch)), len(batch))
        if bucket == len(batch):
            return batch
        padded = np.zeros((bucket, *batch.shape[1:]), np.uint8)
        padded[: len(batch)] = batch
        return padded


def check_probabilities(probabilities: npt.NDArray[np.float32], pictures: int, classes: int) -> None:
    """Refuse outputs that are no probabilities.

    Raises:
        ModelRejected: wrong shape, not finite, or a row that does not sum to 1 within 0.01 (fp16 sums drift by 0.001).
    """
    if probabilities.shape != (pictures, classes):
        raise ModelRejected(
            f"{pictures} pictures gave an output of shape {probabilities.shape}; expected ({pictures}, {classes})"
        )
    if not np.isfinite(probabilities).all():
        raise ModelRejected("its output holds values that are not finite")
    if probabilities.min() < 0:
        raise ModelRejected(f"its output holds {probabilities.min():g}; probabilities are not negative")
    sums = probabilities.sum(axis=1)
    if np.abs(sums - 1).max() > 0.01:
        raise ModelRejected(f"its outputs sum to {sums.min():.3f} to {sums.max():.3f}; probabilities sum to 1")


def _report_placement(session: Any, model: Path, name: str) -> None:  # noqa: ANN401 - onnxruntime has no types
    """Log how many nodes the provider left to others, where this ONNX Runtime can tell."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return
    elsewhere = sum(
        len(part.get_nodes()) for part in session.get_provider_graph_assignment_info() if part.ep_name != name
    )
    if elsewhere:
        logs.warning("nodes left on the CPU", model=model, provider=name, nodes=elsewhere)


def open_graph(
    model: Path | bytes, create: Create | None = None
) -> Callable[[npt.NDArray[Any]], dict[str, npt.NDArray[np.float32]]]:
    """Return what runs a batch through a graph on the CPU and gives all outputs by name: to look into, not to serve.

    Args:
        model: an ONNX file, or its contents.
        create: see Session.

    Raises:
        ModelRejected: ONNX Runtime cannot load it.
    """
    options = _onnxruntime().SessionOptions()
    options.intra_op_num_threads = cores()
    options.log_severity_level = 3  # outputs whose shape is not declared are worth a warning to it
    source = model if isinstance(model, bytes) else str(model)
    try:
        session = (create or _onnxruntime().InferenceSession)(source, sess_options=options, providers=[_NAMES["cpu"]])
    except Exception as error:  # noqa: BLE001 - ONNX Runtime raises what its libraries raise
        logs.failure("session failed", error, model="" if isinstance(model, bytes) else model, provider="cpu")
        raise ModelRejected("ONNX Runtime cannot load it on cpu; the log says why") from None
    name = session.get_inputs()[0].name
    outputs = [output.name for output in session.get_outputs()]
    return lambda batch: dict(zip(outputs, session.run(outputs, {name: batch}), strict=True))


def _onnxruntime() -> Any:  # noqa: ANN401 - onnxruntime has no types
    """Import ONNX Runtime late, so that a missing one is a sentence and the client starts without it."""
    try:
        return importlib.import_module("onnxruntime")
    except ImportError:
        check_runtime()
        raise SetupError(
            "ONNX Runtime is installed but cannot be imported: run `python -c 'import onnxruntime'`"
        ) from None
