"""Opens a model file on one provider, and finds out whether that provider is what runs it."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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
from service.session import cpu, cuda, openvino, runtime, tensorrt
from service.session.plan import About, Plan, Wanted
from service.tensors import read_input

Create = Callable[..., Any]
"""Makes ONNX Runtime's InferenceSession: (path, sess_options, providers, enable_fallback)."""

_RECORD = "session.record_ep_graph_assignment_info"


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
    create: Create | None = None,
) -> Opened:
    """Return a session that runs on the provider.

    Raises:
        ModelRejected: the provider is not here, cannot load the file, or ONNX Runtime chose another one.
    """
    plan = _plan(model, provider, OPTIONS[provider]() if options is None else options, wanted, create)
    session = _made(model, provider, plan, create)
    actual = session.get_providers()
    if actual[0] != runtime.NAMES[provider]:
        raise ModelRejected(
            f"{provider} was asked for, ONNX Runtime fell back to {actual[0]}; its own line on standard error says why"
        )
    elsewhere = _elsewhere(session, provider)
    about = About(provider, plan.device, plan.floats, elsewhere, plan.notes)
    if about.on_cpu:
        logs.warning("nodes left on the CPU", model=model, provider=provider, nodes=about.on_cpu)
    return Opened(session, plan, about)


def _plan(model: Path, provider: Provider, options: ProviderOptions, wanted: Wanted, create: Create | None) -> Plan:
    """Return what the provider's room makes of its options."""
    match options:
        case CpuOptions():
            return cpu.plan(options, wanted)
        case OpenVinoOptions():
            return openvino.plan(options, wanted)
        case CudaOptions():
            return cuda.plan(options, wanted)
        case TensorRtOptions():
            look = _made(model, "cpu", cpu.plan(CpuOptions(), wanted), create)
            return tensorrt.plan(options, wanted, read_input(look.get_inputs(), wanted.expected))
    raise TypeError(f"{provider} has other options than {options!r}. This is a bug.")


def _made(model: Path, provider: Provider, plan: Plan, create: Create | None) -> Any:  # noqa: ANN401 - untyped
    """Return ONNX Runtime's session, made with the whole mask: its threads inherit that of the one that makes it."""
    onnxruntime = runtime.load()
    if create is None and (missing := runtime.explain_missing(provider, onnxruntime.get_available_providers())):
        raise ModelRejected(missing)
    if provider in {"cuda", "tensorrt"} and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # the CUDA and cuDNN that pip installed
    options = session_options(plan.threads, provider, plan.config)
    try:
        with cores.whole():
            return (create or onnxruntime.InferenceSession)(
                str(model), sess_options=options, providers=_given(plan.providers), enable_fallback=0
            )
    except Exception as error:  # noqa: BLE001 - providers raise what their libraries raise
        logs.failure("session failed", error, model=model, provider=provider)
        raise ModelRejected(f"ONNX Runtime cannot load it on {provider}; the log says why") from None


def session_options(threads: int, provider: Provider, config: Mapping[str, str]) -> Any:  # noqa: ANN401 - untyped
    """Return ONNX Runtime's SessionOptions."""
    options = runtime.load().SessionOptions()
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


def _given(providers: Sequence[tuple[str, Mapping[str, str]]]) -> list[tuple[str, dict[str, str]]]:
    return [(name, dict(options)) for name, options in providers]


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
