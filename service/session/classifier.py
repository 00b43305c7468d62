"""One model file on one provider: samples in, probabilities out; buckets, padding, warm-up."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from service import cores, scores, tensors
from service.errors import ModelRejected
from service.manifest import Precision, Scores
from service.providers import Provider, ProviderOptions
from service.session import runtime
from service.session.bound import Bound
from service.session.nvidia import HostMemory
from service.session.opening import Create, open_model
from service.session.plan import Wanted, computed
from service.tensors import Expected

_LONG = 0.1
"""Seconds of a warm-up batch that hide what only a first run costs on the CPU."""


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
        options: of the provider; its defaults if none are given.
        precision: of the file's numbers, as far as it says.
        instance: which of a model's sessions this is, from 0.
        external: the external weight files, by their location as the model file writes it. On the CPU they are read
            into memory; those that are not given are mapped: overwriting them changes answers.
        create: makes the InferenceSession; a test passes a fake.
        onnxruntime: the module, where a test passes a fake of all of it.

    Attributes:
        about: what it says of itself: provider, device, what it computes in, nodes that run elsewhere.
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
        options: ProviderOptions | None = None,
        precision: Precision = "fp32",
        instance: int = 0,
        external: Mapping[str, Path] | None = None,
        create: Create | None = None,
        onnxruntime: Any = None,  # noqa: ANN401 - onnxruntime has no types
    ) -> None:
        expected = expected or Expected()
        self.buckets = buckets(max_batch_size)
        threads = intra_op_threads or cores.count()
        wanted = Wanted(threads, self.buckets, precision, instance, expected, external or {})
        self._session, self._plan, self.about = open_model(
            model, provider, options, wanted, create=create, onnxruntime=onnxruntime
        )
        self._computed = computed(precision, self.about.floats)
        self.input, self._fixed, self.assumed = tensors.read_input(self._session.get_inputs(), expected)
        output, classes = tensors.read_output(self._session.get_outputs())
        self._names = ([output], self.input.name)  # asked once: each time costs 3 us
        self._bound = self._bind(onnxruntime or runtime.load(), output)
        given = expected.scores(output)
        self._logits = given == "logits"
        if classes is None or given is None or expected.probe:
            classes = self._probe(known=given is not None)
        self.classes = classes
        if self._fixed is not None:
            self.buckets = [self._fixed]
            if self._bound is not None:
                self._bound.keep(self.buckets)

    @property
    def provider(self) -> Provider:
        """Which execution provider runs it."""
        return self.about.provider

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of a picture."""
        return self.input.picture

    @property
    def gives(self) -> Scores:
        """What the graph itself gives; `run` gives probabilities either way."""
        return "logits" if self._logits else "probabilities"

    @property
    def fixed_batch(self) -> int | None:
        """How many samples the graph takes at a time; None where as many as there are."""
        return self._fixed

    @property
    def on_own_thread(self) -> bool:
        """Whether only one thread may run it, as GPU providers want."""
        return self._bound is not None

    def take_over(self) -> None:
        """Make the calling thread the one that serves: where CUDA graphs are on it records them, which takes a while.

        Raises:
            ModelRejected: a graph gives something else than the same work without it, which is what was self-tested.
            Exception: whatever the provider raises where it cannot.
        """
        if self._bound is None:
            return
        limit = scores.TOLERANCE[self._computed]
        for bucket, given in self._bound.take_over().items():
            plain, replayed = [self._probabilities(scores.rows_of(each)) for each in given]
            apart = float(np.abs(replayed - plain).max())
            if not apart <= limit:  # NaN too
                raise ModelRejected(
                    f"its CUDA graph of {bucket} pictures is {apart:.2g} from the probabilities without it; the limit "
                    f"for {self._computed} is {limit:.2g} (graphs=off serves it without)"
                )

    def run(self, batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return the probabilities [N, classes] of N samples, each as `input` says."""
        return self._probabilities(self._rows(batch))

    def warm_up(self, clock: Callable[[], float] = time.perf_counter) -> dict[int, float]:
        """Run every bucket on generated samples; return the seconds that a batch of each takes.

        Twice, as the first run may build something; but on the CPU what takes long takes as long the first time:
        ResNet-50's batches of 1 to 32 within 2 %, and once instead of twice makes it READY 2.5 s sooner.

        Raises:
            ModelRejected: an output has the wrong shape, is not finite or does not sum to 1.
        """
        seconds = {}
        for bucket in self.buckets:
            batch = self.input.generated(bucket)
            started = clock()
            scores.check_probabilities(self.run(batch), bucket, self.classes)
            seconds[bucket] = clock() - started
            if self._plan.pads or seconds[bucket] < _LONG:
                started = clock()
                self.run(batch)
                seconds[bucket] = clock() - started
        return seconds

    def _probabilities(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the probabilities [N, classes] of the rows that the graph gives."""
        return scores.softmax(rows) if self._logits else rows

    def _rows(self, batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return what the graph gives for N samples as rows [N, classes]."""
        size = len(batch)
        if self._fixed is not None and size != self._fixed:
            parts = [batch[first : first + self._fixed] for first in range(0, size, self._fixed)]
            parts[-1] = _padded(parts[-1], self._fixed)
            return np.concatenate([self._rows(part) for part in parts])[:size]
        largest = self.buckets[-1]
        if self._plan.pads and self._fixed is None and size > largest:  # a new shape would cost a build, or seconds
            parts = [batch[first : first + largest] for first in range(0, size, largest)]
            return np.concatenate([self._rows(part) for part in parts])
        given = self._given(batch)
        if given.ndim != 2 or given.dtype != np.float32:
            given = scores.rows_of(given)
        return given if len(given) == size else given[:size]

    def _given(self, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return what the graph gives for a batch, for more than its samples where it was padded."""
        if self._bound is not None:
            return self._bound(batch)
        if self._plan.pads and self._fixed is None:
            batch = _padded(batch, next(bucket for bucket in self.buckets if bucket >= len(batch)))
        outputs, name = self._names
        given: npt.NDArray[Any] = self._session.run(outputs, {name: batch})[0]
        return given

    def _bind(self, onnxruntime: Any, output: str) -> Bound | None:  # noqa: ANN401 - onnxruntime has no types
        """Return what runs batches in a GPU's memory, where this session has one."""
        if self._plan.gpu is None:
            return None
        return Bound(
            self._session,
            onnxruntime,
            taken=self.input,
            output=output,
            device=("cuda", self._plan.gpu),
            buckets=self.buckets if self._fixed is None else [self._fixed],
            graphs=self._plan.graphs == "on",
            memory=HostMemory(pinned=self._plan.pinned),
        )

    def _probe(self, *, known: bool) -> int:
        """Find out by generated samples what the graph does not say; return how many classes it has."""
        pair = self.input.generated(self._fixed or 2, seed=1)
        try:
            parts = (pair[:1], pair[1:]) if self._fixed is None else (pair,)
            alone = np.concatenate([self._rows(part) for part in parts])
        except ModelRejected:
            raise
        except Exception as error:  # noqa: BLE001 - ONNX Runtime raises whatever the graph or the provider leads it to
            height, width, _ = self.input_shape
            raise ModelRejected(
                f"it cannot run a picture of {height}x{width}: {str(error).partition(chr(10))[0]}; "
                "where it takes another size, say height and width in manifest.json, or by --preset"
            ) from None
        if self._fixed is None and not self._same_together(pair, alone):
            self._fixed = 1
            self.assumed += ("one picture at a time since its graph answers two together wrongly",)
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


def _padded(batch: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """Return a batch of `size`, filled up with zeros."""
    if len(batch) == size:
        return batch
    padded = np.zeros((size, *batch.shape[1:]), batch.dtype)
    padded[: len(batch)] = batch
    return padded
