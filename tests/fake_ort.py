"""A fake of ONNX Runtime's module with GPUs in it: fails on what the real one would fail on, or do wrong in silence.

The device's memory is apart from the host's. A CUDA graph is of one thread, of the addresses that it was recorded with
and of its number. What is misused is remembered too, so that no `except Exception` hides it: see `FakeRuntime.misused`.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
OPENVINO, TENSORRT = "OpenVINOExecutionProvider", "TensorrtExecutionProvider"
Array = npt.NDArray[Any]
Answer = Callable[[Array], Array]


class Port(NamedTuple):
    """An input or output as ONNX Runtime describes it."""

    name: str
    type: str
    shape: Sequence[int | str | None]


class Misuse(Exception):
    """What the real one would fail on, or get wrong."""


class Value:
    """OrtValue: memory on a device."""

    _addresses = count(0x7F0000000000, 0x1000)

    def __init__(self, array: Array, kind: str, device: int) -> None:
        self.array, self.where = array, (kind, device)
        self.address = next(self._addresses)

    def update_inplace(self, data: Array) -> None:
        """Copy from the host, or fail as the real one does for other sizes."""
        if data.nbytes != self.array.nbytes or data.dtype != self.array.dtype:
            raise ValueError(
                f"{data.nbytes} bytes of {data.dtype} do not fit {self.array.nbytes} of {self.array.dtype}"
            )
        self.array[...] = data.reshape(self.array.shape)

    def numpy(self) -> Array:
        """Copy to the host."""
        return self.array.copy()


class Binding:
    """IOBinding of one session."""

    def __init__(self, session: "FakeSession") -> None:
        self.session = session
        self.inputs, self.outputs = dict[str, Value](), dict[str, Value]()

    def bind_ortvalue_input(self, name: str, value: Value) -> None:
        """Bind an input."""
        self._check(name, value, [port.name for port in self.session.get_inputs()])
        self.inputs[name] = value

    def bind_ortvalue_output(self, name: str, value: Value) -> None:
        """Bind an output."""
        self._check(name, value, [port.name for port in self.session.get_outputs()])
        self.outputs[name] = value

    def _check(self, name: str, value: Value, names: Sequence[str]) -> None:
        if name not in names:
            raise RuntimeError(f"Failed to find {name} in the model")
        if value.where != self.session.where:
            raise self.session.runtime.misuse(
                f"{name} is bound on {value.where}, the session runs on {self.session.where}"
            )


class Run(NamedTuple):
    """One run, as a test looks at it: the batch's size, the graph's number (None: without one), the thread."""

    size: int
    graph: int | None
    thread: int


class FakeSession:
    """InferenceSession on a GPU, or on the CPU where that is what there is."""

    def __init__(
        self,
        runtime: "FakeRuntime",
        options: Any,  # noqa: ANN401
        providers: Sequence[tuple[str, Mapping[str, str]]],
    ) -> None:
        self.runtime, self.options, self.asked = runtime, options, dict(providers)
        self.given = [name for name, _ in providers if name in runtime.loads] or [CPU]
        on_gpu = self.given[0] in {CUDA, TENSORRT}
        said = self.asked.get(self.given[0], {})
        self.where = ("cuda", int(said.get("device_id", 0))) if on_gpu else ("cpu", 0)
        if on_gpu and self.where[1] >= runtime.gpus:
            self.given, self.where = [CPU], ("cpu", 0)  # a device that is not there: the real one falls back
        self.graphs = said.get("enable_cuda_graph") == "1" and on_gpu
        if self.graphs and runtime.nodes.get(CPU):
            raise RuntimeError(
                "This session cannot use the graph capture feature as requested by the user as all compute graph nodes "
                "have not been partitioned to the CUDAExecutionProvider"
            )
        self.recorded: dict[int, tuple[int, Binding, list[int]]] = {}
        self.runs = list[Run]()
        self.released = False
        self.fails = ""  # what it fails with when it records a graph
        self._busy = threading.Lock()

    def get_providers(self) -> list[str]:
        """Name the providers, the one that runs it first."""
        return [*self.given, *([] if CPU in self.given else [CPU])]

    def get_inputs(self) -> Sequence[Port]:
        """Describe the inputs."""
        return self.runtime.inputs

    def get_outputs(self) -> Sequence[Port]:
        """Describe the outputs."""
        return self.runtime.outputs

    def get_provider_graph_assignment_info(self) -> list[Any]:
        """Say which provider runs how many nodes; the session must have been told to remember."""
        if self.options.config.get("session.record_ep_graph_assignment_info") != "1":
            raise RuntimeError("graph assignment was not recorded")
        return [
            SimpleNamespace(ep_name=name, get_nodes=lambda number=number: [object()] * number)
            for name, number in self.runtime.nodes.items()
        ]

    def io_binding(self) -> Binding:
        """Make a binding."""
        return Binding(self)

    def run(self, names: Sequence[str], feed: Mapping[str, Array], options: Any = None) -> list[Array]:  # noqa: ANN401
        """Run what is on the host; not while graphs are recorded."""
        if self.graphs and _graph(options) != -1:
            raise self.runtime.misuse("a graph would be recorded of a batch that lies on the host")
        assert list(names) == [port.name for port in self.get_outputs()]
        [batch] = feed.values()
        return [self._answer(batch, None)]

    def run_with_iobinding(self, binding: Binding, options: Any = None) -> None:  # noqa: ANN401
        """Run what is bound, or replay its graph."""
        if binding.session is not self:
            raise ValueError("IOBinding must be used with the session that created it.")
        for kind, bound, ports in (
            ("input", binding.inputs, self.get_inputs()),
            ("output", binding.outputs, self.get_outputs()),
        ):
            if missing := {port.name for port in ports} - bound.keys():
                raise self.runtime.misuse(f"the {kind} {missing} is not bound")
        graph = _graph(options)
        if self.graphs and graph != -1:
            self._replay(graph, binding)
        [taken], [given] = binding.inputs.values(), binding.outputs.values()
        answer = self._answer(taken.array, graph if self.graphs and graph != -1 else None)
        if answer.shape != given.array.shape:
            raise self.runtime.misuse(f"the output is {answer.shape}, its memory {given.array.shape}")
        given.array[...] = answer

    def _replay(self, graph: int, binding: Binding) -> None:
        """Record a graph, or check that what is replayed is what was recorded."""
        if self.fails:
            raise RuntimeError(self.fails)
        addresses = [value.address for value in (*binding.inputs.values(), *binding.outputs.values())]
        thread = threading.get_ident()
        recorded = self.recorded.setdefault(graph, (thread, binding, addresses))
        if recorded[0] != thread:
            raise self.runtime.misuse(f"graph {graph} is of another thread")
        if recorded[2] != addresses:
            raise self.runtime.misuse(f"graph {graph} was recorded with other addresses")

    def _answer(self, batch: Array, graph: int | None) -> Array:
        if self.released:
            raise self.runtime.misuse("the session runs after its release")
        if not self._busy.acquire(blocking=False):
            raise self.runtime.misuse("two threads run one session at once")
        try:
            self.runs.append(Run(len(batch), graph, threading.get_ident()))
            answer = self.runtime.answers.get(self.given[0], self.runtime.answer)
            return (answer if graph is None else self.runtime.replayed or answer)(batch)
        finally:
            self._busy.release()


class FakeRuntime:
    """The module onnxruntime.

    Args:
        answer: what a graph gives for a batch.
        inputs: of the graph.
        outputs: of the graph.
        built: the providers that it was built with.
        loads: the providers that load; any other one falls back to the CPU without a word.
        gpus: how many there are.
        nodes: by provider, how many nodes it runs.
        answers: by provider, where one gives something else.
        replayed: what a recorded graph gives, where that is something else.
    """

    def __init__(
        self,
        answer: Answer,
        *,
        inputs: Sequence[Port],
        outputs: Sequence[Port],
        built: Sequence[str] = (TENSORRT, CUDA, CPU),
        loads: Sequence[str] = (CUDA, CPU),
        gpus: int = 1,
        nodes: Mapping[str, int] | None = None,
        answers: Mapping[str, Answer] | None = None,
        replayed: Answer | None = None,
    ) -> None:
        self.answer, self.inputs, self.outputs = answer, inputs, outputs
        self.built = list(built)
        self.loads, self.gpus, self.nodes, self.answers = loads, gpus, nodes or {}, answers or {}
        self.replayed = replayed
        self.misused = list[str]()
        self.sessions = list[FakeSession]()
        self.OrtValue = SimpleNamespace(
            ortvalue_from_numpy=lambda array, kind, device: Value(array.copy(), *self._device(kind, device)),
            ortvalue_from_shape_and_type=lambda shape, dtype, kind, device: Value(
                np.full(shape, 7, dtype), *self._device(kind, device)
            ),
        )

    def InferenceSession(self, _: str, *, sess_options: Any, providers: Any, enable_fallback: int) -> FakeSession:  # noqa: ANN401, N802
        """Make a session."""
        assert not enable_fallback, "the real one would print, and try again on the CPU"
        self.sessions.append(FakeSession(self, sess_options, providers))
        return self.sessions[-1]

    def SessionOptions(self) -> Any:  # noqa: ANN401, N802
        """Make options that remember what they are told."""
        return _options()

    def RunOptions(self) -> Any:  # noqa: ANN401, N802
        """Make options of a run."""
        return _options()

    def get_available_providers(self) -> list[str]:
        """Name the providers that this build has."""
        return self.built

    def misuse(self, text: str) -> Misuse:
        """Remember a misuse and return it to be raised."""
        self.misused.append(text)
        return Misuse(text)

    def _device(self, kind: str, device: int) -> tuple[str, int]:
        if kind not in {"cpu", "cuda"}:
            raise Exception(f"Unsupported device type: {kind}")  # noqa: TRY002 - as the real one does
        if kind == "cuda" and device >= self.gpus:
            raise RuntimeError("CUDA failure 101: invalid device ordinal")
        return kind, device


def _options() -> Any:  # noqa: ANN401
    config: dict[str, str] = {}
    add = config.__setitem__
    return SimpleNamespace(config=config, add_session_config_entry=add, add_run_config_entry=add)


def _graph(options: Any) -> int:  # noqa: ANN401
    return int(options.config.get("gpu_graph_id", 0)) if options else 0
