"""The versions that a server knows, and which of them a request means."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from service.errors import InvalidInput, Unavailable, UnknownModel
from service.looks import NO_FILES, Files, is_version
from service.model import Model

Begun = TypeVar("Begun")


class State(Enum):
    """Where a version stands."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    DRAINING = "draining"


_PREFERRED = [State.FAILED, State.DRAINING, State.LOADING, State.READY]
"""What a request without a version means, the best last."""


@dataclass(frozen=True, slots=True)
class Version:
    """One version, and its model where it is served.

    Attributes:
        reason: why it is not served, or why what is served is not what is on disk.
        files: as they were when it was loaded, or last tried: it is tried again only when they change.
        contents: the SHA-256 of all of them when it was loaded; empty where that is not known.
    """

    name: str
    version: int
    state: State
    reason: str = ""
    model: Model | None = None
    files: Files = NO_FILES
    contents: str = ""

    @property
    def why_not(self) -> str:
        """Why it cannot answer, for the caller who asks for it."""
        match self.state:
            case State.LOADING:
                return "is being loaded"
            case State.FAILED:
                return f"failed: {self.reason}"
            case _:
                return "is being let go"

    @property
    def notice(self) -> str:
        """What an operator should know of it; empty when there is nothing."""
        return "; ".join(filter(None, (self.reason, self.model.notice if self.model else "")))


class Versions:
    """All versions by model and number; safe to use from any thread.

    Args:
        default_model: the model for requests that name none. None: the only one, and when others come later still that
            one: their coming is no reason to refuse what was answered before.
    """

    def __init__(self, default_model: str | None) -> None:
        self._default_model = default_model
        self._lock = threading.Lock()
        self._only = ""  # of the models that count; the first that was
        self._expected: dict[str, bool] = {}  # the models that count, and whether each was ever served
        self._models: dict[str, dict[int, Version]] = {}

    def find(self, name: str, version: str) -> Model:
        """Return the model of the version that a request means; one that is being let go has it until it is gone.

        Raises:
            UnknownModel, InvalidInput: see `meant`.
            Unavailable: it is there and cannot answer now; says why.
        """
        chosen = self.meant(name, version)
        if chosen.model is None:
            raise Unavailable(f"version {chosen.version} of {chosen.name!r} {chosen.why_not}")
        return chosen.model

    def meant(self, name: str, version: str) -> Version:
        """Return the version that a request means by its name (may be empty) and version (may be empty).

        Raises:
            UnknownModel: no such model or version; names those there are.
            InvalidInput: none is named and there is no default, or the version is no whole number.
        """
        name = name or self._default()
        versions = self.of(name)
        if version:
            if not is_version(version):
                raise InvalidInput("version", f"is {version[:40]!r}; it must be a whole number from 1")
            asked = versions.get(int(version))
            if asked is None:
                raise UnknownModel(f"no version {version} of {name!r}; there are: {join(sorted(versions))}")
            return asked
        return max(versions.values(), key=lambda entry: (_PREFERRED.index(entry.state), entry.version))

    def use(self, name: str, version: str, begin: Callable[[Model], Begun]) -> Begun:
        """Return what `begin` does with the model that a request means.

        A model that was replaced just after it was found refuses, and its successor is there: it is asked then.

        Raises:
            UnknownModel, InvalidInput, Unavailable: see `find`; and what `begin` raises.
        """
        model = self.find(name, version)
        while True:
            try:
                return begin(model)
            except Unavailable:
                successor = self.find(name, version)
                if successor is model:
                    raise
                model = successor

    def all(self) -> list[Version]:
        """Return all versions, by model, the highest first."""
        with self._lock:
            return [
                self._models[name][number]
                for name in sorted(self._models)
                for number in sorted(self._models[name], reverse=True)
            ]

    def of(self, name: str) -> dict[int, Version]:
        """Return the versions of a model by number.

        Raises:
            UnknownModel: there is no such model; names those there are.
        """
        with self._lock:
            versions = self._models.get(name)
            if versions is None:
                raise UnknownModel(f"no model {name[:80]!r} here; there are: {self.names()}")
            return dict(versions)

    def get(self, name: str, number: int) -> Version | None:
        """Return one version, if there is such."""
        with self._lock:
            return self._models.get(name, {}).get(number)

    def default(self) -> Model | None:
        """Return the model that a request that names nothing gets; None where there is none."""
        try:
            return self.find("", "")
        except (InvalidInput, UnknownModel, Unavailable):
            return None

    def readiness(self) -> dict[str, bool]:
        """Return for each model whether a version of it is served."""
        with self._lock:
            return {
                name: any(entry.state is State.READY for entry in versions.values())
                for name, versions in self._models.items()
            }

    def expected(self) -> dict[str, bool]:
        """Return whether each model that counts was served, now or before.

        Those count that were found at start, or served since, less those that were unloaded or removed. That one was
        served before is enough: a reload that fails says nothing against a server.
        """
        with self._lock:
            return dict(self._expected)

    def files(self) -> dict[str, dict[int, Files]]:
        """Return the files of every version as they were when it was loaded, or last tried."""
        with self._lock:
            return {
                name: {number: entry.files for number, entry in versions.items()}
                for name, versions in self._models.items()
            }

    def names(self) -> str:
        """Return the names of the models, for a message."""
        return join(sorted(self._models))

    def put(self, entry: Version) -> None:
        """Put a version in, in place of the one of its number; a model that is served counts from then on."""
        with self._lock:
            self._models.setdefault(entry.name, {})[entry.version] = entry
            if entry.state is State.READY:
                self._expected[entry.name] = True
                self._find_only()

    def expect(self, *names: str) -> None:
        """Let models count before they are served."""
        with self._lock:
            self._expected |= dict.fromkeys(names, False)
            self._find_only()

    def forget(self, name: str, number: int) -> None:
        """Take a version out, and with the last one its model."""
        with self._lock:
            del self._models[name][number]
            if not self._models[name]:
                del self._models[name]

    def dismiss(self, name: str) -> None:
        """Let a model count no more."""
        with self._lock:
            self._expected.pop(name, None)
            self._find_only()

    def _default(self) -> str:
        if name := self._default_model or self._only:
            return name
        raise InvalidInput("model", f"is empty and there is no default; name one of: {self.names()}")

    def _find_only(self) -> None:
        if self._only not in self._expected:
            self._only = next(iter(self._expected)) if len(self._expected) == 1 else ""


def join(names: list[str] | list[int]) -> str:
    """Return names with commas between, for a message."""
    return ", ".join(str(name) for name in names) or "none"
