"""The model repository on disk (ROOT/MODEL/VERSION/model.onnx) and the versions served from it."""

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from service import logs
from service.errors import InvalidInput, ModelRejected, SetupError, Unavailable, UnknownModel
from service.metrics import Metrics
from service.model import Model

FILE = "model.onnx"
_LOST = "lost+found"  # at the root of every ext4 volume, and unreadable
RESERVED = "liveness"
"""A health service of its own, so no model may be called so."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")

Load = Callable[[Path, str, int], Model]
"""Loads one version: (file, model, version); raises ModelRejected."""


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
    """One version on disk, and its model where it is served."""

    name: str
    version: int
    state: State
    reason: str = ""
    model: Model | None = None


class Repository:
    """Loads the versions below `root` and finds the one that a request means.

    Args:
        root: the model repository.
        load: loads one version.
        keep_versions: how many of a model's versions, the highest that pass, are served.
        default_model: the model for requests that name none.
        metrics: where readiness and failures are counted.
    """

    def __init__(
        self, root: Path, load: Load, *, keep_versions: int, default_model: str | None, metrics: Metrics
    ) -> None:
        self._root = root
        self._load = load
        self._keep_versions = keep_versions
        self._default_model = default_model
        self._metrics = metrics
        self._lock = threading.Lock()
        self._changing = threading.Lock()  # held while versions are loaded or let go: one change at a time
        self._expected: set[str] = set()
        self._models: dict[str, dict[int, Version]] = {}

    def scan(self) -> None:
        """Find what is on disk; every version starts as LOADING.

        Raises:
            SetupError: the repository cannot be read, or a model in it has a name that cannot be served.
        """
        try:
            found = {
                folder.name: _found(folder)
                for folder in sorted(self._root.iterdir())
                if folder.is_dir() and not folder.name.startswith(".") and folder.name != _LOST
            }
        except FileNotFoundError:
            raise SetupError(
                f"--repository {self._root} does not exist; `saccade export` and `make demo` make one, "
                f"its layout is ROOT/MODEL/VERSION/{FILE}"
            ) from None
        except OSError as error:
            raise SetupError(f"--repository {self._root} cannot be read: {error.strerror}") from None
        for name in found:
            if not is_name(name):
                raise SetupError(
                    f"--repository: a model cannot be called {name!r}; use letters, digits, '.', '_' and '-'"
                )
        with self._lock:
            self._models = {name: versions for name, versions in found.items() if versions}
            self._expected = set(self._models)
        if self._default_model and self._default_model not in self._models:
            raise SetupError(
                f"--default-model {self._default_model} is not in the repository; there are: {self._names()}"
            )

    def load_all(self) -> None:
        """Load the newest versions of every model, the highest first, until enough of each passed."""
        with self._changing:
            for name in list(self._models):
                self._load_newest(name)

    def load(self, name: str, seconds: float) -> None:
        """Look again for the versions of one model and load what is new, or failed before, beside what is served.

        Args:
            name: of a folder in the repository.
            seconds: most to wait for the calls of each older version that is no longer kept.

        Raises:
            UnknownModel: the repository has no version of it.
            Unavailable: its highest version cannot be served; says why, and what is served instead.
        """
        with self._changing:
            found = self._look(name)
            with self._lock:
                known = self._models.setdefault(name, {})
                for number in [number for number, entry in known.items() if entry.model is None]:
                    del known[number]
                known.update({number: entry for number, entry in found.items() if number not in known})
            gone = self._load_newest(name)
            for entry in gone:
                _drain(entry, seconds)
        newest = self._versions(name).get(max(found))
        if newest is not None and newest.state is not State.READY:
            served = _join([entry.version for entry in self.versions() if entry.name == name and entry.model])
            raise Unavailable(
                f"failed to load version {newest.version} of {name!r}: {newest.reason}; versions served: {served}"
            )

    def unload(self, name: str, seconds: float) -> None:
        """Drain every version of a model, for at most `seconds` in all, and let it go.

        Raises:
            UnknownModel: there is no such model.
        """
        deadline = time.monotonic() + seconds
        with self._changing:
            versions = self._versions(name)
            self._metrics.model_ready(name, ready=False)
            with self._lock:
                self._expected.discard(name)
            for entry in versions.values():
                self._set(replace(entry, state=State.DRAINING))
            for entry in versions.values():
                _drain(entry, max(0.0, deadline - time.monotonic()))
            with self._lock:
                del self._models[name]
        logs.info("model unloaded", model=name)

    def find(self, name: str, version: str) -> Model:
        """Return the model that a request means by its name (may be empty) and version (may be empty).

        Raises:
            UnknownModel: no such model or version; names those there are.
            InvalidInput: none is named and there is no default, or the version is no whole number.
            Unavailable: it is there and cannot answer now; says why.
        """
        name = name or self._default()
        versions = self._versions(name)
        if version:
            if not _VERSION.fullmatch(version):
                raise InvalidInput("version", f"is {version[:40]!r}; it must be a whole number from 1")
            asked = versions.get(int(version))
            if asked is None:
                raise UnknownModel(f"no version {version} of {name!r}; there are: {_join(sorted(versions))}")
            chosen = asked
        else:
            chosen = max(versions.values(), key=lambda entry: (_PREFERRED.index(entry.state), entry.version))
        if chosen.model is None:
            why = "is being loaded" if chosen.state is State.LOADING else f"is {chosen.state.value}: {chosen.reason}"
            raise Unavailable(f"version {chosen.version} of {chosen.name!r} {why}")
        return chosen.model

    def versions(self) -> list[Version]:
        """Return all versions, by model, the highest first."""
        with self._lock:
            return [
                self._models[name][number]
                for name in sorted(self._models)
                for number in sorted(self._models[name], reverse=True)
            ]

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
        """Return the readiness of the models found at start or loaded since, less those that were unloaded."""
        return {name: served for name, served in self.readiness().items() if name in self._expected}

    def close(self, seconds: float) -> None:
        """Drain every served version, for at most `seconds` in all, and let it go."""
        deadline = time.monotonic() + seconds
        for entry in self.versions():
            self._metrics.model_ready(entry.name, ready=False)
            if entry.model is not None:
                self._set(replace(entry, state=State.DRAINING))
                entry.model.drain(max(0.0, deadline - time.monotonic()))

    def _look(self, name: str) -> dict[int, Version]:
        """Return the versions of a model that are on disk now."""
        found: dict[int, Version] = {}
        if is_name(name):
            try:
                found = _found(self._root / name)
            except OSError as error:
                logs.warning("model cannot be read", model=name, reason=str(error))
        if not found:
            raise UnknownModel(
                f"failed to load {name[:80]!r}: the repository has no version of it; served are: {self._names()}"
            )
        return found

    def _load_newest(self, name: str) -> list[Version]:
        """Load what is not served of a model's versions, the highest first, until enough passed.

        Returns what is not kept and was served.
        """
        passed, gone = 0, []
        for number, entry in sorted(self._versions(name).items(), reverse=True):
            if passed == self._keep_versions:
                gone.append(entry)
                self._forget(name, number)
            else:
                passed += entry.state is State.READY or self._load_version(name, number)
        with self._lock:
            if passed:
                self._expected.add(name)
        self._metrics.model_ready(name, ready=passed > 0)
        return gone

    def _load_version(self, name: str, number: int) -> bool:
        try:
            model = self._load(self._root / name / str(number) / FILE, name, number)
        except ModelRejected as error:
            self._fail(name, number, str(error))
            return False
        except Exception as error:  # noqa: BLE001 - one bad file must not keep the others from being served
            logs.failure("load failed", error, model=name, version=number)
            self._fail(name, number, "it could not be loaded; the log says why")
            return False
        self._set(Version(name, number, State.READY, model=model))
        facts = model.facts
        logs.info(
            "model ready",
            model=name,
            version=number,
            provider=facts.provider,
            device=facts.device,
            precision=facts.precision,
            verified=facts.verified,
        )
        return True

    def _fail(self, name: str, number: int, reason: str) -> None:
        logs.warning("model failed", model=name, version=number, reason=reason)
        self._metrics.load_failed(name, number)
        self._set(Version(name, number, State.FAILED, reason))

    def _set(self, entry: Version) -> None:
        with self._lock:
            self._models[entry.name][entry.version] = entry

    def _forget(self, name: str, number: int) -> None:
        with self._lock:
            del self._models[name][number]

    def _default(self) -> str:
        if self._default_model:
            return self._default_model
        if len(self._expected) == 1:
            return next(iter(self._expected))
        raise InvalidInput("model", f"is empty and there is no default; name one of: {self._names()}")

    def _versions(self, name: str) -> dict[int, Version]:
        with self._lock:
            versions = self._models.get(name)
            if versions is None:
                raise UnknownModel(f"no model {name[:80]!r} here; there are: {self._names()}")
            return dict(versions)

    def _names(self) -> str:
        return _join(sorted(self._models))


def is_name(name: str) -> bool:
    """Return whether a model may be called so."""
    return bool(_NAME.fullmatch(name)) and name != RESERVED


def _found(folder: Path) -> dict[int, Version]:
    """Return the versions in a model's folder."""
    return {
        int(version.name): Version(folder.name, int(version.name), State.LOADING)
        for version in folder.iterdir()
        if _VERSION.fullmatch(version.name) and (version / FILE).is_file()
    }


def _drain(entry: Version, seconds: float) -> None:
    if entry.model is not None:
        entry.model.drain(seconds)


def _join(names: list[str] | list[int]) -> str:
    return ", ".join(str(name) for name in names) or "none"
