"""What is served becomes what is on disk: a version is loaded and tested, then takes over, and the old one drains."""

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from service import logs
from service.errors import ModelRejected, UnknownModel, sendable
from service.looks import FILE, Files, Found
from service.manifest import sha256
from service.metrics import Metrics
from service.model import Model
from service.versions import State, Version, Versions

Load = Callable[[Path, str, int], Model]
"""Loads one version: (file, model, version); raises ModelRejected."""
Check = Callable[[Path], object]
"""Raises ModelRejected where a file can be told to be wrong without loading it."""
Reload = Literal["beside", "replace"]
"""When a version is loaded that takes the place of another: while that one serves, or after it was let go."""

_MOST_NAMED = 5
"""Files that changed, in a log line."""
_GONE = "it is gone from the repository, and served until another version passes"


class Switch:
    """Loads versions and lets them go; not to be used by two threads at once.

    Args:
        versions: where they are put.
        root: the model repository.
        load: loads one version.
        keep_versions: how many of a model's versions, the highest that pass, are served.
        metrics: where readiness and failures are counted.
        reload: with `replace` there are never more of a model's versions in memory than are kept. While one takes the
            place of the last, its model is not served.
        check: looks at a file before the version whose place it takes is let go.

    Attributes:
        changed: told when another model or version is there, is served or is not served any more.
        stopped: begin no further load.
    """

    def __init__(
        self,
        versions: Versions,
        root: Path,
        load: Load,
        *,
        keep_versions: int,
        metrics: Metrics,
        reload: Reload,
        check: Check,
    ) -> None:
        self._versions = versions
        self._root = root
        self._load = load
        self._keep_versions = keep_versions
        self._metrics = metrics
        self._reload = reload
        self._check = check
        self.changed: Callable[[], None] = lambda: None
        self.stopped = False
        self._told: tuple[dict[str, bool], dict[str, bool], list[Model | None]] = {}, {}, []

    def settle(self, name: str, found: Found, seconds: float, *, again: bool = False) -> None:
        """Serve the highest versions that pass, as many as are kept, and let the others go.

        Args:
            name: of the model.
            found: its versions on disk.
            seconds: most to wait for the calls of each version that is let go.
            again: try once more what failed as it is.
        """
        passed, wanted = 0, set()
        for number, files in sorted(found.items(), reverse=True):
            if passed == self._keep_versions or self.stopped:
                break
            wanted.add(number)
            entry = self._versions.get(name, number)
            if entry is not None and entry.files != files:
                entry = self._changed(entry, files)
            if entry is None or entry.state is State.LOADING or (again and entry.reason):
                passed += self._load_version(name, number, files, seconds)
            else:
                passed += entry.state is State.READY
                if entry.reason == _GONE:
                    self._versions.put(replace(entry, reason=""))
        if not self.stopped:
            self._keep_only(name, wanted, seconds)
            self._tell(name)

    def let_go(self, name: str, seconds: float) -> None:
        """Drain every version of a model, for at most `seconds` in all, and forget it."""
        self._versions.dismiss(name)
        versions = self._of(name)
        for entry in versions:
            self._versions.put(replace(entry, state=State.DRAINING))
        self._tell(name)
        self._drop(versions, seconds)
        self._tell(name)

    def close(self, seconds: float) -> None:
        """Drain every served version, for at most `seconds` in all."""
        deadline = time.monotonic() + seconds
        for entry in self._versions.all():
            self._metrics.model_ready(entry.name, ready=False)
            if entry.model is not None:
                self._versions.put(replace(entry, state=State.DRAINING))
                entry.model.drain(max(0.0, deadline - time.monotonic()))

    def _changed(self, entry: Version, files: Files) -> Version | None:
        """Return a version whose files changed, where their contents are what was loaded; else None."""
        known = entry.contents if entry.model is not None and entry.files.alike(files) else ""
        if known and self._contents(entry, files) == known:
            entry = replace(entry, files=files)
            self._versions.put(entry)
            return entry
        if differing := entry.files.differing(files):
            logs.info("version changed", model=entry.name, version=entry.version, files=differing[:_MOST_NAMED])
        return None

    def _contents(self, entry: Version, files: Files) -> str:
        """Return the SHA-256 of a version's files; empty where they cannot be read."""
        folder = self._root / entry.name / str(entry.version)
        try:
            return sha256(*(folder / file.place for file in files.entries))
        except OSError:
            return ""

    def _load_version(self, name: str, number: int, files: Files, seconds: float) -> bool:
        """Load a version; return whether one of its number is served then, this one or the one before."""
        path = self._root / name / str(number) / FILE
        try:
            if files.refused:
                raise ModelRejected(files.refused)
            self._check(path)
            if self._reload == "replace":
                self._make_room(name, number, seconds)
            new = Version(name, number, State.LOADING, files=files)
            old = self._versions.get(name, number)
            if old is None or old.model is None:
                self._versions.put(new)
            contents = self._contents(new, files)  # before they are loaded: what changes meanwhile is noticed
            model = self._load(path, name, number)
        except ModelRejected as error:
            return self._failed(name, number, files, str(error))
        except Exception as error:  # noqa: BLE001 - one bad file must not keep the others from being served
            logs.failure("load failed", error, model=name, version=number)
            return self._failed(name, number, files, "it could not be loaded; the log says why")
        self._versions.put(replace(new, state=State.READY, model=model, contents=contents))
        self._tell(name)  # before the log, so that what it says is so for everybody
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
        if old is not None:
            _drain([old], seconds)
        return True

    def _failed(self, name: str, number: int, files: Files, reason: str) -> bool:
        """Tell why a version is not served as it is on disk; return whether it is served as it was before."""
        reason = sendable(reason)  # answers tell it, and it may name a file, which is any bytes, or a manifest's field
        old = self._versions.get(name, number)
        still = old is not None and old.model is not None
        if old is None or not still:
            self._versions.put(Version(name, number, State.FAILED, reason, files=files))
        else:
            why = f"its files changed, and as they are now it failed: {reason}; what was loaded before is served"
            self._versions.put(replace(old, reason=why, files=files))
        self._metrics.load_failed(name, number)
        logs.warning("model failed", model=name, version=number, reason=reason)
        return still

    def _make_room(self, name: str, number: int, seconds: float) -> None:
        """Let go what a version takes the place of, before it is loaded."""
        served = [entry for entry in self._of(name) if entry.model]
        leaving = [entry for entry in served if entry.version == number]
        if not leaving and len(served) >= self._keep_versions:
            leaving = served[self._keep_versions - 1 :]
        for entry in leaving:
            self._versions.put(replace(entry, state=State.LOADING, model=None, reason=""))
        if leaving:
            self._tell(name)
            _drain(leaving, seconds)

    def _keep_only(self, name: str, wanted: Iterable[int], seconds: float) -> None:
        """Let go the versions that are not wanted, but for the last one that serves."""
        others = [entry for entry in self._of(name) if entry.version not in wanted]
        if not any(entry.model for entry in self._of(name) if entry.version in wanted):
            last = next((entry for entry in others if entry.model), None)
            if last is not None:
                self._versions.put(replace(last, reason=_GONE))
                others.remove(last)
        for entry in others:
            if entry.model is not None:
                self._versions.put(replace(entry, state=State.DRAINING))
        self._tell(name)
        self._drop(others, seconds)

    def _drop(self, entries: list[Version], seconds: float) -> None:
        _drain(entries, seconds)
        for entry in entries:
            self._versions.forget(entry.name, entry.version)

    def _tell(self, name: str) -> None:
        readiness = self._versions.readiness()
        if name in readiness:
            self._metrics.model_ready(name, ready=readiness[name])
        else:
            self._metrics.model_gone(name)
        serving = [entry.model for entry in self._versions.all() if entry.state is State.READY]
        told = readiness, self._versions.expected(), serving
        if told != self._told:
            self._told = told
            self.changed()

    def _of(self, name: str) -> list[Version]:
        """Return the versions of a model, the highest first; none where it is unknown."""
        try:
            return sorted(self._versions.of(name).values(), key=lambda entry: entry.version, reverse=True)
        except UnknownModel:
            return []


def _drain(entries: Iterable[Version], seconds: float) -> None:
    """Drain for at most `seconds` in all; a drained model has given its sessions' memory back."""
    deadline = time.monotonic() + seconds
    for entry in entries:
        if entry.model is not None:
            entry.model.drain(max(0.0, deadline - time.monotonic()))
