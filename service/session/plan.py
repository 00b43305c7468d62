"""How ONNX Runtime is asked for a session on one provider, and what such a session says of itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from service.errors import ModelRejected
from service.manifest import Precision
from service.providers import Computed, Provider
from service.tensors import Expected


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is known before a session is made.

    Attributes:
        threads: that share one batch on the host.
        buckets: the batch sizes that will run.
        precision: of the file's numbers, as far as it says.
        instance: which of a model's sessions this is, from 0.
        expected: what is known of the graph beside its shapes.
        external: the external weight files, by their location as the model file writes it.
    """

    threads: int
    buckets: Sequence[int]
    precision: Precision = "fp32"
    instance: int = 0
    expected: Expected = field(default_factory=Expected)
    external: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a provider's room makes of its options.

    Attributes:
        providers: ONNX Runtime's names and options, the one that is asked for first.
        threads: intra-op threads.
        device: where it runs, as an operator calls it.
        floats: what float32 arithmetic is computed in.
        config: entries of ONNX Runtime's session configuration.
        pads: whether batches are padded to their buckets, since each new shape costs time or memory.
        gpu: number of the NVIDIA GPU to whose memory inputs and outputs are bound; None: they stay on the host.
        graphs: whether its work is recorded as CUDA graphs, where that is possible or in any case.
        pinned: whether the host's buffers are page-locked.
        notes: what an operator should know of it.
    """

    providers: Sequence[tuple[str, Mapping[str, str]]]
    threads: int
    device: str
    floats: Computed = "fp32"
    config: Mapping[str, str] = field(default_factory=dict)
    pads: bool = False
    gpu: int | None = None
    graphs: Literal["auto", "on", "off"] = "off"
    pinned: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class About:
    """What a session says of itself.

    Attributes:
        provider: which runs it.
        device: where, for example `CPU`, `GPU.1` or `cuda:0`.
        floats: what float32 arithmetic is computed in; see `computed`.
        elsewhere: how many nodes of the graph other providers run, by their names.
        notes: what an operator should know of it.
    """

    provider: Provider
    device: str
    floats: Computed = "fp32"
    elsewhere: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def on_cpu(self) -> int:
        """How many nodes were left to the CPU's provider by another."""
        return 0 if self.provider == "cpu" else self.elsewhere.get("cpu", 0)


def computed(file: Precision, floats: Computed) -> Computed:
    """Return what a file's numbers are computed in where float32 is computed in `floats`.

    A bf16 file is a float32 graph that asks its provider for bf16.
    """
    return floats if file in {"fp32", "bf16"} else file


def flag(value: bool) -> str:  # noqa: FBT001 - what it turns into text
    """Return a truth as ONNX Runtime reads it."""
    return "1" if value else "0"


def check_folder(option: str, folder: Path) -> None:
    """Make the folder that an option names where there is none.

    Raises:
        ModelRejected: it cannot be made or written to.
    """
    probe = folder / ".saccade"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise ModelRejected(f"its option {option} is no folder that can be written to: {error.strerror}") from None
