"""What there is to try: the ways in which a version can run here, and how its cores can be shared out."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from service.providers import Computed, Provider

Goal = Literal["throughput", "latency"]
GOALS: tuple[Goal, ...] = ("throughput", "latency")
MAX_INSTANCES = 16
MAX_WEIGHTS = 4 << 30
"""Most bytes of model files that the instances of one setting hold together: each has weights of its own."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to run a version that passed its self-test here.

    Attributes:
        path: the model file.
        version: its number.
        provider: what runs it.
        options: of the provider, as `--provider-options` takes them.
        precision: what it computes in.
        unverified: whether its precision has no verdict, so that only `--allow-unverified` serves it.
        threads: among which the server shares a batch by default; 0: as many as there are cores.
    """

    path: Path
    version: int
    provider: Provider
    options: str
    precision: Computed
    unverified: bool = False
    threads: int = 0


@dataclass(frozen=True, slots=True)
class Setting:
    """A kind, and how its cores are shared out.

    Attributes:
        kind: what runs.
        instances: sessions that run side by side.
        threads: that share a batch of each.
    """

    kind: Kind
    instances: int
    threads: int

    def __str__(self) -> str:
        said = f" {self.kind.options}" if self.kind.options else ""
        each = f"{self.instances} x {self.threads} thread{'s' * (self.threads != 1)}"
        return f"{self.kind.provider}{said}, {self.kind.precision}, {each}"


def shapes(provider: Provider, cores: int, size: int) -> list[tuple[int, int]]:
    """Return what (instances, threads) are tried.

    Those of CPUs use all cores, or are one instance with fewer threads: more threads than a small model's work is worth
    are slower than few. A GPU's instances overlap copies with work; its threads do nothing.

    Args:
        provider: what runs them.
        cores: how many there are.
        size: of the model's files, in bytes.
    """
    if provider in {"cuda", "tensorrt"}:
        found = [(1, cores), (2, cores)]
    else:
        powers = [1 << power for power in range(cores.bit_length()) if 1 << power < cores]
        found = [(1, threads) for threads in (cores, *reversed(powers))]
        found += [(cores // threads, threads) for threads in reversed(powers)]
    most = min(MAX_INSTANCES, MAX_WEIGHTS // max(size, 1))
    return [shape for shape in dict.fromkeys(found) if shape[0] <= max(1, most)]


def settings(kinds: Sequence[Kind], cores: int, size: int) -> list[Setting]:
    """Return the settings to try, the server's default first: the first kind in one instance."""
    default = [Setting(kind, 1, kind.threads or cores) for kind in kinds[:1]]
    others = [Setting(kind, *shape) for kind in kinds for shape in shapes(kind.provider, cores, size)]
    return list(dict.fromkeys([*default, *others]))


def flags(setting: Setting, batch: int) -> str:
    """Return the flags of `saccade serve` that mean a setting with its largest batch, as a shell takes them."""
    kind = setting.kind
    parts = ["--provider", kind.provider]
    parts += ["--provider-options", kind.options] if kind.options else []
    parts += ["--instances", str(setting.instances), "--intra-op-threads", str(setting.threads)]
    parts += ["--max-batch-size", str(batch)]
    return shlex.join([*parts, "--allow-unverified"] if kind.unverified else parts)
