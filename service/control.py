"""What a supervisor and its workers tell each other, over one pipe a worker."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from service.config import Settings
from service.errors import SaccadeError

Question = Literal["load", "unload", "counts", "flush"]
CHANGES: frozenset[Question] = frozenset(["load", "unload"])
"""What changes the repository: in every worker, one after the other."""


@dataclass(frozen=True, slots=True)
class Ping:
    """To a worker or a stand-by: are you there?"""


@dataclass(frozen=True, slots=True)
class Pong:
    """From a worker or a stand-by: I am; the answer to each Ping, whatever else is going on."""


@dataclass(frozen=True, slots=True)
class Start:
    """To a process that is to be a worker.

    Attributes:
        worker: its number, from 0.
        settings: its own share of what was given.
        unloaded: models on disk that callers had unloaded.
        folder: where it keeps its metrics.
    """

    worker: int
    settings: Settings
    unloaded: tuple[str, ...]
    folder: Path


@dataclass(frozen=True, slots=True)
class Loading:
    """From a worker: a version is being loaded, and answers may be late; or it is no more."""

    now: bool


@dataclass(frozen=True, slots=True)
class Loaded:
    """From a worker: what there is was loaded, and whether that makes it READY; again when that changes."""

    ready: bool
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Listen:
    """To a worker: take calls."""


@dataclass(frozen=True, slots=True)
class Listening:
    """From a worker: it takes calls."""


@dataclass(frozen=True, slots=True)
class Failed:
    """From a worker that ends: why it cannot serve, for people."""

    reason: str


@dataclass(frozen=True, slots=True)
class Stop:
    """To a worker: drain, as that signal asks."""

    signal: int


@dataclass(frozen=True, slots=True)
class Ask:
    """A question: of a worker, to be put to every worker; of the supervisor, to this one."""

    number: int
    question: Question
    about: Any = None


@dataclass(frozen=True, slots=True)
class Reply:
    """A worker's answer to a question."""

    number: int
    value: Any = None
    error: SaccadeError | None = None


@dataclass(frozen=True, slots=True)
class Replies:
    """To the worker that asked: what each worker that takes calls said, by its number."""

    number: int
    by_worker: dict[int, Reply]
