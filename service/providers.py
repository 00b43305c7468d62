"""The execution providers by name, and what an operator may say of each.

ONNX Runtime ignores some wrong options, and takes others as a reason to run on the CPU without a word. So each provider
has its options here, by our names, with types and bounds; what is none of them is refused before anything is loaded.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

Provider = Literal["tensorrt", "cuda", "openvino", "cpu"]
"""The best first: the order in which `auto` tries them."""
ProviderChoice = Literal["auto", "tensorrt", "cuda", "openvino", "cpu"]
Computed = Literal["fp32", "tf32", "fp16", "bf16", "int8"]
"""What numbers are computed with: TF32 is float32 whose products are rounded to 10 bits, on NVIDIA's tensor cores."""

PROVIDERS: tuple[Provider, ...] = get_args(Provider)

Devices = Annotated[
    tuple[Annotated[int, Field(ge=0, le=63)], ...],
    BeforeValidator(lambda value: [value] if isinstance(value, int) else _split(value)),
    Field(min_length=1, max_length=64),
]


class ProviderOptions(BaseModel):
    """What may be said of a provider; frozen, and nothing else may be said."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class CpuOptions(ProviderOptions):
    """ONNX Runtime's own kernels for CPUs."""

    spinning: bool = Field(
        False,
        description="Let threads that wait for the next operator keep their cores busy: for cores that nobody else "
        "uses. Beside one busy process a ResNet-50 takes 107 ms with it and 66 ms without.",
    )


class OpenVinoOptions(ProviderOptions):
    """OpenVINO: Intel's CPUs, GPUs and NPUs; its CPU kernels run on AMD's CPUs too."""

    device: str = Field(
        "CPU", pattern=r"^(CPU|GPU(\.[0-9]{1,2})?|NPU)$", description="`CPU`, `GPU`, `GPU.1` and so on, or `NPU`."
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32",
        description="What a float32 file is computed in. Always said to OpenVINO: its own default is bf16 on CPUs with "
        "AMX and fp16 on GPUs. A CPU that cannot compute in it is refused; OpenVINO itself would use fp32.",
    )
    threads: int = Field(0, ge=0, le=1024, description="Threads that share one batch. 0: as `--intra-op-threads` says.")
    streams: int = Field(1, ge=1, le=64, description="Parts into which the threads are divided, each for a batch.")
    cache: Path | None = Field(None, description="Folder in which compiled models are kept, so that starting is quick.")


class NvidiaOptions(ProviderOptions):
    """What CUDA and TensorRT have in common."""

    devices: Devices = Field((0,), description="Numbers of the GPUs; the instances of a model take turns: `0,1`.")
    pinned: bool = Field(
        True, description="Page-lock the host's buffers, so that copies to and from the GPU run at full speed."
    )


class CudaOptions(NvidiaOptions):
    """CUDA and cuDNN: NVIDIA's GPUs."""

    tf32: bool = Field(
        False, description="Compute float32 files in TF32: faster on tensor cores, right to about 3 digits."
    )
    graphs: Literal["auto", "on", "off"] = Field(
        "auto",
        description="CUDA graphs: the work of a batch is recorded once for each bucket and replayed. `auto`: where "
        "every node is on the GPU.",
    )
    nhwc: Literal["auto", "on", "off"] = Field(
        "auto", description="Convolutions in NHWC, as tensor cores want them. `auto`: for fp16 files, and with `tf32`."
    )
    search: Literal["exhaustive", "heuristic", "default"] = Field(
        "exhaustive", description="How cuDNN chooses its algorithm for a convolution."
    )
    workspace: bool = Field(True, description="Let cuDNN's algorithms use as much memory as they like.")
    arena: Literal["same-as-requested", "next-power-of-two"] = Field(
        "same-as-requested", description="By how much the memory for tensors grows."
    )
    memory_limit_mb: int = Field(
        0, ge=0, le=1 << 20, description="Most MiB of GPU memory for a session's tensors. 0: all there is."
    )


class TensorRtOptions(NvidiaOptions):
    """TensorRT: engines built for this very GPU; NVIDIA's GPUs."""

    precision: Literal["tf32", "fp16", "bf16"] = Field(
        "tf32",
        description="What a float32 file is computed in. TensorRT takes TF32 for float32 where the GPU has it; the "
        "environment's `NVIDIA_TF32_OVERRIDE=0` forbids that.",
    )
    cache: Path | None = Field(
        None, description="Folder in which engines and timings are kept, a volume for example: a build takes minutes."
    )
    workspace_mb: int = Field(
        0, ge=0, le=1 << 20, description="Most MiB of GPU memory that an engine's build may use. 0: TensorRT's choice."
    )
    level: int = Field(3, ge=0, le=5, description="How long TensorRT looks for fast kernels; 5 is longest.")


OPTIONS: Mapping[Provider, type[ProviderOptions]] = {
    "tensorrt": TensorRtOptions,
    "cuda": CudaOptions,
    "openvino": OpenVinoOptions,
    "cpu": CpuOptions,
}


def parse_options(choice: ProviderChoice, text: str) -> dict[Provider, ProviderOptions]:
    """Return what was said of each provider.

    Args:
        choice: `--provider`. An option is that provider's; with `auto` its name begins with its provider's and a dot.
        text: pairs `key=value` with spaces between, or a JSON object (with `auto` of objects by provider).

    Raises:
        ValueError: an option or a value that there is not, or one that nobody would look at; says what there is.
    """
    said: dict[Provider, dict[str, Any]] = {}
    for key, value in _pairs(text):
        provider, _, name = key.partition(".") if key.partition(".")[0] in PROVIDERS else (choice, "", key)
        if provider == "auto":
            raise ValueError(f"whose option is {key!r}? With --provider auto write for example openvino.{key}")
        if choice not in {"auto", provider}:
            raise ValueError(f"{key!r} would be ignored: --provider is {choice}")
        said.setdefault(provider, {})[name] = value  # type: ignore[arg-type]
    return {provider: _validated(provider, options) for provider, options in said.items()}


def options_text(options: ProviderOptions) -> str:
    """Return what was said of a provider, as `parse_options` takes it for that provider."""
    said = options.model_dump(mode="json", include=options.model_fields_set)
    pairs = {name: _shown(value) for name, value in said.items()}
    if any(not value or set(value) & set(" \t\n") for value in pairs.values()):
        return json.dumps(said)
    return " ".join(f"{name}={value}" for name, value in pairs.items())


def options_table() -> str:
    """Return all options as Markdown tables; the manual's are made by this."""
    parts = []
    for provider, options in OPTIONS.items():
        rows = ["| option | default | what it is |", "|---|---|---|"]
        for name, field in options.model_fields.items():
            default = options.model_json_schema()["properties"][name].get("default")
            shown = "" if default is None else f"`{_shown(default)}`"
            rows.append(f"| `{name}` | {shown} | {field.description}{_choices(field.annotation)} |")
        parts.append("\n".join([f"**`{provider}`**: {options.__doc__}", "", *rows]))
    return "\n\n".join(parts)


def _pairs(text: str) -> list[tuple[str, Any]]:
    """Return names and values, the objects of JSON taken apart."""
    if not text.lstrip().startswith("{"):
        pairs = [word.partition("=") for word in text.split()]
        for key, equals, _ in pairs:
            if not equals or not key:
                raise ValueError(f"{key!r} is no key=value pair; write them with spaces between, or as a JSON object")
        return [(key, value) for key, _, value in pairs]
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is no JSON: {error}") from None
    return [
        (f"{key}.{name}" if isinstance(value, dict) else key, each)
        for key, value in found.items()
        for name, each in (value.items() if isinstance(value, dict) else [(key, value)])
    ]


def _validated(provider: Provider, said: dict[str, Any]) -> ProviderOptions:
    kind = OPTIONS[provider]
    try:
        return kind.model_validate(said)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            raise ValueError(f"{name!r} is no option of {provider}; it has {', '.join(kind.model_fields)}") from None
        raise ValueError(f"{provider}.{name}: {first['msg']}; it is {first['input']!r}") from None


def _split(value: object) -> object:
    return value.split(",") if isinstance(value, str) else value


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _choices(annotation: Any) -> str:  # noqa: ANN401 - any type there is
    values = [value for value in get_args(annotation) if isinstance(value, str)]
    return f" ({', '.join(f'`{value}`' for value in values)})" if values else ""
