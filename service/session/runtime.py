"""ONNX Runtime itself: which distribution is here, which providers it was built with. The only importer of it."""

import importlib
import importlib.metadata
from collections.abc import Callable, Sequence
from typing import Any

from service.errors import SetupError
from service.providers import PROVIDERS, Provider

NAMES: dict[Provider, str] = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
"""What ONNX Runtime calls them."""

_EXTRAS = {"onnxruntime": "cpu", "onnxruntime-gpu": "gpu", "onnxruntime-openvino": "openvino"}
_OTHERS = ("onnxruntime-directml", "onnxruntime-training", "onnxruntime-rocm", "onnxruntime-qnn")
_INSTALL = "`pip install '.[cpu]'` in a clone of Saccade, '.[openvino]' for Intel, or '.[gpu]' on a CUDA machine"


def check_runtime(installed: Callable[[str], str] = importlib.metadata.version) -> str:
    """Return the one ONNX Runtime distribution of this environment, as `name version`.

    Raises:
        SetupError: there is none, or more than one (they overwrite each other's files); the text gives the commands.
    """
    found = []
    for name in (*_EXTRAS, *_OTHERS):
        try:
            found.append(f"{name} {installed(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    if not found:
        raise SetupError(f"ONNX Runtime is missing: run {_INSTALL}")
    if len(found) > 1:
        names = " ".join(entry.split()[0] for entry in found)
        raise SetupError(f"{' and '.join(found)} overwrite each other: `pip uninstall {names}`, then {_INSTALL}")
    return found[0]


def load() -> Any:  # noqa: ANN401 - onnxruntime has no types
    """Import ONNX Runtime late, so that a missing one is a sentence and the client starts without it.

    Raises:
        SetupError: see `check_runtime`, or it is broken.
    """
    try:
        return importlib.import_module("onnxruntime")
    except ImportError:
        check_runtime()
        raise SetupError(
            "ONNX Runtime is installed but cannot be imported: run `python -c 'import onnxruntime'`"
        ) from None


def candidates(choice: str, available: Sequence[str] | None = None) -> list[Provider]:
    """Return the providers to try, the best first: for `auto` all that this ONNX Runtime was built with."""
    built = load().get_available_providers() if available is None else available
    if choice == "auto":
        return [provider for provider in PROVIDERS if NAMES[provider] in built]
    return [provider for provider in PROVIDERS if provider == choice]


def explain_missing(provider: Provider, available: Sequence[str]) -> str:
    """Return why a provider that this ONNX Runtime was not built with cannot be had; empty where it was."""
    if NAMES[provider] in available:
        return ""
    extra = "openvino" if provider == "openvino" else "gpu" if provider != "cpu" else "cpu"
    return (
        f"this ONNX Runtime was built without {NAMES[provider]}: in an environment of its own "
        f"run `pip install '.[{extra}]'` in a clone of Saccade"
    )
