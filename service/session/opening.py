"""Opens a model file on one provider, and finds out whether that provider is what runs it."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from service import cores, logs
from service.errors import ModelRejected
from service.providers import (
    OPTIONS,
    CpuOptions,
    CudaOptions,
    OpenVinoOptions,
    Provider,
    ProviderOptions,
    TensorRtOptions,
)
from service.session import cpu, cuda, nvidia, openvino, runtime, tensorrt
from service.session.plan import About, Plan, Wanted
from service.session.progress import progress
from service.tensors import read_input

Create = Callable[..., Any]
"""Makes ONNX Runtime's InferenceSession: (path, sess_options, providers, enable_fallback)."""

_RECORD = "session.record_ep_graph_assignment_info"
_REFUSED_GRAPHS = "cannot use the graph capture feature"
"""How ONNX Runtime begins to say that not every node is on the GPU, or that the graph has branches or loops."""


class Opened(NamedTuple):
    """ONNX Runtime's session, how it was asked for, and what it says of itself."""

    session: Any
    plan: Plan
    about: About


def open_model(
    model: Path,
    provider: Provider,
    options: ProviderOptions | None,
    wanted: Wanted,
    *,
    create: Create | None = None,
    onnxruntime: Any = None,  # noqa: ANN401 - onnxruntime has no types
) -> Opened:
    """Return a session that runs on the provider.

    Raises:
        ModelRejected: the provider is not here, cannot load the file, or ONNX Runtime chose another one.
    """
    maker = _Maker(model, onnxruntime or runtime.load(), create, wanted.external)
    if create is None and (missing := runtime.explain_missing(provider, maker.onnxruntime.get_available_providers())):
        raise ModelRejected(missing)
    plan = _plan(provider, OPTIONS[provider]() if options is None else options, wanted, maker)
    session, plan = maker.with_graphs(provider, plan)
    actual = session.get_providers()
    if actual[0] != runtime.NAMES[provider]:
        why = "" if plan.gpu is None else nvidia.explain(plan.gpu, tensorrt=provider == "tensorrt")
        raise ModelRejected(
            f"{provider} was asked for, ONNX Runtime fell back to {actual[0]}; "
            f"{why or 'its own line on standard error says why'}"
        )
    elsewhere = _elsewhere(session, provider)
    about = About(provider, plan.device, plan.floats, elsewhere, plan.notes)
    if about.on_cpu:
        logs.warning("nodes left on the CPU", model=model, provider=provider, nodes=about.on_cpu)
    return Opened(session, plan, about)


def _plan(provider: Provider, options: ProviderOptions, wanted: Wanted, maker: "_Maker") -> Plan:
    """Return what the provider's room makes of its options."""
    match options:
        case CpuOptions():
            return cpu.plan(options, wanted)
        case OpenVinoOptions():
            return openvino.plan(options, wanted)
        case CudaOptions():
            return cuda.plan(options, wanted)
        case TensorRtOptions():
            look = maker.make("cpu", cpu.plan(CpuOptions(), wanted))  # an engine must know its input before it is built
            return tensorrt.plan(options, wanted, read_input(look.get_inputs(), wanted.expected))
    raise TypeError(f"{provider} has other options than {options!r}. This is a bug.")


def explain_failure(provider: Provider, error: BaseException, gpu: int | None = None) -> str:
    """Return in one sentence why a provider failed, as far as that can be found out.

    Args:
        provider: which.
        error: what it raised.
        gpu: the number of the GPU that it should have used, where it may be that there is none.
    """
    found = nvidia.explain_failure(error) if provider in {"cuda", "tensorrt"} else ""
    if not found and gpu is not None:
        found = nvidia.explain(gpu, tensorrt=provider == "tensorrt")
    return found or "the log says why"


class _Maker:
    """Makes ONNX Runtime's sessions of one file.

    Args:
        model: the file.
        onnxruntime: the module, or a fake of it.
        create: makes the InferenceSession; None: the module's own.
        external: see `Wanted`.
    """

    def __init__(
        self,
        model: Path,
        onnxruntime: Any,  # noqa: ANN401 - onnxruntime has no types
        create: Create | None,
        external: Mapping[str, Path],
    ) -> None:
        self.model, self.onnxruntime = model, onnxruntime
        self._external = external
        self._create = create or onnxruntime.InferenceSession

    def with_graphs(self, provider: Provider, plan: Plan) -> tuple[Any, Plan]:
        """Return the session, without CUDA graphs where they cannot be and that is allowed, and how it was made."""
        if plan.graphs == "off":
            return self.make(provider, plan), plan
        try:
            return self.make(provider, plan), replace(plan, graphs="on")
        except _NoGraphs:
            if plan.graphs == "on":
                raise
            logs.info("CUDA graphs are off", model=self.model, reason="not all of its nodes can run on the GPU")
            plan = cuda.without_graphs(plan)
            return self.make(provider, plan), plan

    def make(self, provider: Provider, plan: Plan) -> Any:  # noqa: ANN401 - onnxruntime has no types
        """Return a session, made with the whole mask: its threads inherit that of the one that makes it."""
        if plan.gpu is not None:
            nvidia.preload()
        options = session_options(self.onnxruntime, plan.threads, provider, plan.config)
        held = hold_weights(options, self._external) if provider == "cpu" else []
        providers = [(name, dict(given)) for name, given in plan.providers]
        try:
            with cores.whole(), progress("building engine", self.model, on=provider == "tensorrt"):
                return self._create(str(self.model), sess_options=options, providers=providers, enable_fallback=0)
        except Exception as error:  # noqa: BLE001 - providers raise what their libraries raise
            if _REFUSED_GRAPHS in str(error):
                raise _NoGraphs("CUDA graphs were asked for, and not all of its nodes can run on the GPU") from None
            logs.failure("session failed", error, model=self.model, provider=provider)
            why = explain_failure(provider, error, plan.gpu)
            raise ModelRejected(f"ONNX Runtime cannot load it on {provider}; {why}") from None
        finally:
            held.clear()  # until here ONNX Runtime reads from it


class _NoGraphs(ModelRejected):
    """ONNX Runtime refused to record CUDA graphs of a file."""


def session_options(
    onnxruntime: Any,  # noqa: ANN401 - onnxruntime has no types
    threads: int,
    provider: Provider,
    config: Mapping[str, str],
) -> Any:  # noqa: ANN401 - likewise
    """Return ONNX Runtime's SessionOptions."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Its own lines are none of our log's: warnings of initialisers that old files list twice, and errors that on
    # the CPU come as exceptions too. Another provider that cannot be loaded says why in such a line only.
    options.log_severity_level = 4 if provider == "cpu" else 3
    for key, value in config.items():
        options.add_session_config_entry(key, value)
    if provider != "cpu":
        options.add_session_config_entry(_RECORD, "1")
    return options


def hold_weights(
    options: Any,  # noqa: ANN401 - onnxruntime has no types
    external: Mapping[str, Path],
) -> list[bytes]:
    """Give ONNX Runtime the external weights as they are now; return what must live until the session is made.

    It would map the files: one that is overwritten then changes the answers of a session that runs, and one that is cut
    short kills the process. It copies what it is given.

    Raises:
        ModelRejected: one of them cannot be read.
    """
    add = getattr(options, "add_external_initializers_from_files_in_memory", None)
    if not external or add is None:  # an older ONNX Runtime
        return []
    try:
        held = [path.read_bytes() for path in external.values()]
    except OSError as error:
        raise ModelRejected(f"its external weights cannot be read: {error.strerror}") from None
    add(list(external), held, [len(content) for content in held])
    return held


def _elsewhere(session: Any, provider: Provider) -> dict[str, int]:  # noqa: ANN401 - onnxruntime has no types
    """Return how many nodes other providers run, where this ONNX Runtime can tell."""
    if provider == "cpu" or not hasattr(session, "get_provider_graph_assignment_info"):
        return {}
    ours = {name: kind for kind, name in runtime.NAMES.items()}
    nodes: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        if part.ep_name != runtime.NAMES[provider]:
            nodes[ours.get(part.ep_name, part.ep_name)] += len(part.get_nodes())
    return dict(nodes)
