"""ONNX Runtime: providers, warm-up, buckets and `run(batch)`; the only importer of onnxruntime.

ONNX Runtime falls back to the CPU without a word when a provider does not load, so a session here is made with one
provider and is refused unless that one comes first in what was made.
"""

import importlib
import importlib.metadata
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from service import cores, logs, scores, tensors
from service.errors import ModelRejected, SetupError
from service.manifest import Scores
from service.tensors import Expected

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


def buckets(max_batch_size: int) -> list[int]:
    """Return the batch sizes that are warmed up: powers of two up to, and always, the largest batch."""
    powers = [1 << power for power in range(max_batch_size.bit_length()) if 1 << power < max_batch_size]
    return [*powers, max_batch_size]


class Session:
    """One model file on one provider: samples as the graph takes them in, probabilities float32 [N, classes] out.

    Args:
        model: the ONNX file.
        provider: the execution provider that must run it.
        intra_op_threads: threads that share one batch on the CPU; 0 for all cores that the process may use.
        max_batch_size: largest batch; its buckets are what `warm_up` runs. A batch that the graph fixes wins.
        expected: what is known of the graph beside its shapes.
        create: makes the InferenceSession; a test passes a fake.

    Attributes:
        input: what it takes; its samples may come in any number.
        classes: how many classes it has.
        assumed: what was neither said nor found in the graph, and so assumed.

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
        expected: Expected | None = None,
        create: Create | None = None,
    ) -> None:
        expected = expected or Expected()
        self.provider = provider
        self._session = self._open(model, intra_op_threads or cores.count(), create or _onnxruntime().InferenceSession)
        self.input, self._fixed, self.assumed = tensors.read_input(self._session.get_inputs(), expected)
        output, classes = tensors.read_output(self._session.get_outputs())
        self._names = ([output], self.input.name)  # asked once: each time costs 3 us
        given = expected.scores(output)
        self._logits = given == "logits"
        self.buckets = buckets(max_batch_size)
        if classes is None or given is None or expected.probe:
            classes = self._probe(known=given is not None)
        self.classes = classes
        if self._fixed is not None:
            self.buckets = [self._fixed]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of a picture."""
        return self.input.picture

    @property
    def gives(self) -> Scores:
        """What the graph itself gives; `run` gives probabilities either way."""
        return "logits" if self._logits else "probabilities"

    @property
    def on_own_thread(self) -> bool:
        """Whether only one thread may run it, as GPU providers want."""
        return self.provider != "cpu"

    def run(self, batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return the probabilities [N, classes] of N samples, each as `input` says."""
        rows = self._rows(batch)
        return scores.softmax(rows) if self._logits else rows

    def warm_up(self, clock: Callable[[], float] = time.perf_counter) -> dict[int, float]:
        """Run every bucket on generated samples; return the seconds that a batch of each takes.

        Raises:
            ModelRejected: an output has the wrong shape, is not finite or does not sum to 1.
        """
        seconds = {}
        for bucket in self.buckets:
            batch = self.input.generated(bucket)
            scores.check_probabilities(self.run(batch), bucket, self.classes)
            started = clock()
            self.run(batch)
            seconds[bucket] = clock() - started
        return seconds

    def _rows(self, batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return what the graph gives for N samples as rows [N, classes]."""
        size = len(batch)
        if self._fixed is not None and size != self._fixed:
            parts = [batch[first : first + self._fixed] for first in range(0, size, self._fixed)]
            parts[-1] = _padded(parts[-1], self._fixed)
            return np.concatenate([self._rows(part) for part in parts])[:size]
        if self.provider in _FIXED_SHAPES and self._fixed is None:
            batch = _padded(batch, next((bucket for bucket in self.buckets if bucket >= size), size))
        outputs, name = self._names
        given: npt.NDArray[Any] = self._session.run(outputs, {name: batch})[0]
        if given.ndim != 2 or given.dtype != np.float32:
            given = scores.rows_of(given)
        return given if len(given) == size else given[:size]

    def _probe(self, *, known: bool) -> int:
        """Find out by generated samples what the graph does not say; return how many classes it has."""
        pair = self.input.generated(self._fixed or 2, seed=1)
        if self._fixed is None:
            alone = np.concatenate([self._rows(pair[:1]), self._rows(pair[1:])])
            if not self._same_together(pair, alone):
                self._fixed = 1
                self.assumed += ("one picture at a time since its graph answers two together wrongly",)
        else:
            alone = self._rows(pair)
        if not known:
            self._logits = not scores.are_probabilities(alone)
            self.assumed += (f"its scores are {self.gives} by what it gives for generated samples",)
        return int(alone.shape[1])

    def _same_together(self, samples: npt.NDArray[Any], alone: npt.NDArray[np.float32]) -> bool:
        """Return whether samples get together what each gets alone; a batch of 1 may be fixed inside a graph."""
        try:
            together = self._rows(samples)
        except Exception:  # noqa: BLE001 - a Reshape to [1, -1] fails in the layer behind it
            return False
        limit = 1e-3 * max(1.0, float(np.abs(alone).max()))
        return together.shape == alone.shape and bool(np.abs(together - alone).max() <= limit)

    def _open(self, model: Path, threads: int, create: Create) -> Any:  # noqa: ANN401 - onnxruntime has no types
        options = _onnxruntime().SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Its own lines are none of our log's: warnings of initialisers that old files list twice, and errors that on
        # the CPU come as exceptions too. A GPU provider that cannot be loaded says why in such a line only.
        options.log_severity_level = 4 if self.provider == "cpu" else 3
        # Spinning threads take the cores from everybody else: with one busy neighbour 29 ms became 107, without 66.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        name = _NAMES[self.provider]
        if self.provider == "cuda" and hasattr(_onnxruntime(), "preload_dlls"):
            _onnxruntime().preload_dlls()  # the CUDA and cuDNN that pip installed
        if self.provider != "cpu":
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        try:
            with cores.whole():  # its threads inherit the mask of this one
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


def _padded(batch: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """Return a batch of `size`, filled up with zeros."""
    if len(batch) == size:
        return batch
    padded = np.zeros((size, *batch.shape[1:]), batch.dtype)
    padded[: len(batch)] = batch
    return padded


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
    options.intra_op_num_threads = cores.count()
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
