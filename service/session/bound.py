"""Batches on a GPU: inputs and outputs stay where they are, at fixed addresses, and CUDA graphs replay their work.

Every bucket has its own buffers, made once: a host buffer (page-locked), the input and the output on the device, and
their binding. A batch is copied into the host buffer, from there into the input in place, run, and its output copied
back. A CUDA graph is of one thread and of these addresses: it is recorded by the thread that serves (`take_over`), and
any other thread runs the same work without it.
"""

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy.typing as npt

from service.session.nvidia import HostMemory
from service.tensors import Tensor

_GRAPH = "gpu_graph_id"
_NO_GRAPH = "-1"
"""Runs without recording or replaying a graph."""


class _Buffers(NamedTuple):
    """What one bucket runs with."""

    host: npt.NDArray[Any]
    taken: Any
    given: Any
    binding: Any
    graph: Any  # RunOptions that record and replay its graph


class Bound:
    """Runs batches of the buckets' sizes on one GPU; one thread at a time.

    Args:
        session: ONNX Runtime's InferenceSession.
        onnxruntime: the module, or a fake of it: makes OrtValue and RunOptions.
        taken: the input.
        output: name of the output.
        device: ONNX Runtime's kind of device and its number: `("cuda", 0)`.
        buckets: sizes of the batches.
        graphs: whether the session records CUDA graphs.
        memory: makes the host buffers.
    """

    def __init__(
        self,
        session: Any,  # noqa: ANN401 - onnxruntime has no types
        onnxruntime: Any,  # noqa: ANN401 - likewise
        *,
        taken: Tensor,
        output: str,
        device: tuple[str, int],
        buckets: Sequence[int],
        graphs: bool,
        memory: HostMemory,
    ) -> None:
        self._session, self._onnxruntime = session, onnxruntime
        self._taken, self._output, self._device = taken, output, device
        self._memory = memory
        self._graphs = graphs
        self._thread: int | None = None
        self._plain = self._run_options(_NO_GRAPH)
        shape, dtype = self._look(buckets[0])
        self._buckets = {bucket: self._buffers(bucket, shape, dtype) for bucket in buckets}

    def keep(self, buckets: Sequence[int]) -> None:
        """Give up the buffers of all other sizes."""
        self._buckets = {bucket: self._buckets[bucket] for bucket in buckets}

    def take_over(self) -> dict[int, tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
        """Say that the calling thread serves from now on, and record every bucket's graph on it.

        Returns:
            By bucket, what the same samples give without its graph, and when it is replayed; nothing without graphs.
            They are others than it was recorded with, so that a graph that does not see its input shows.
        """
        self._thread = threading.get_ident()
        found = {}
        for size, buffers in self._buckets.items():
            samples = self._taken.generated(size, seed=1)
            plain = self._run(buffers, samples, self._plain)  # makes what CUDA keeps for each thread
            if self._graphs:
                self._run(buffers, self._taken.generated(size), buffers.graph)  # records
                found[size] = plain, self._run(buffers, samples, buffers.graph)
        return found

    def __call__(self, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return what the graph gives for a batch [N, ...], N at most the largest bucket, as an array of its own."""
        buffers = self._buckets[min(bucket for bucket in self._buckets if bucket >= len(batch))]
        mine = self._thread == threading.get_ident()
        return self._run(buffers, batch, buffers.graph if mine else self._plain)

    def _run(self, buffers: _Buffers, batch: npt.NDArray[Any], options: Any) -> npt.NDArray[Any]:  # noqa: ANN401 - RunOptions
        size = len(batch)
        buffers.host[:size] = batch
        buffers.host[size:] = 0
        buffers.taken.update_inplace(buffers.host)
        self._session.run_with_iobinding(buffers.binding, options)
        given: npt.NDArray[Any] = buffers.given.numpy()
        return given[:size]

    def _look(self, size: int) -> tuple[tuple[int, ...], npt.DTypeLike]:
        """Return shape (less the first dimension) and datatype of the output, which a graph need not declare."""
        [given] = self._session.run([self._output], {self._taken.name: self._taken.generated(size)}, self._plain)
        return given.shape[1:], given.dtype

    def _buffers(self, bucket: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> _Buffers:
        value = self._onnxruntime.OrtValue
        host = self._memory.empty((bucket, *self._taken.shape[1:]), self._taken.dtype)
        host[:] = 0
        taken = value.ortvalue_from_numpy(host, *self._device)
        given = value.ortvalue_from_shape_and_type([bucket, *shape], dtype, *self._device)
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(self._taken.name, taken)
        binding.bind_ortvalue_output(self._output, given)
        graph = self._run_options(str(bucket)) if self._graphs else self._plain
        return _Buffers(host, taken, given, binding, graph)

    def _run_options(self, graph: str) -> Any:  # noqa: ANN401 - onnxruntime has no types
        options = self._onnxruntime.RunOptions()
        if self._graphs:
            options.add_run_config_entry(_GRAPH, graph)
        return options
