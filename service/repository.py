"""The model repository on disk (ROOT/MODEL/VERSION/model.onnx) becomes served versions, and what changes there too."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from service import logs, looks
from service.errors import SetupError, Unavailable, UnknownModel
from service.folders import why
from service.looks import FILE, Look
from service.metrics import Metrics
from service.switch import Check, Load, Reload, Switch
from service.versions import State, Version, Versions, join

_EMPTY = "it is empty; without --allow-empty that is taken for a volume that went away"
_NO_VERSION = "it holds no version: no folder whose name is a whole number, with a model.onnx in it"
_NONE_LEFT = "it holds no version any more; remove the folder if the model is to go"


class Repository:
    """Loads the versions below `root`, and keeps what is served what two looks at the disk agree on.

    Args:
        root: the model repository.
        load: loads one version.
        keep_versions: how many of a model's versions, the highest that pass, are served.
        default_model: the model for requests that name none.
        metrics: where readiness and failures are counted.
        reload: see service.switch.
        check: see service.switch.
        may_be_empty: a repository that is suddenly empty was emptied, and is no volume that went away.
    """

    def __init__(
        self,
        root: Path,
        load: Load,
        *,
        keep_versions: int,
        default_model: str | None,
        metrics: Metrics,
        reload: Reload = "beside",
        check: Check = lambda _: None,
        may_be_empty: bool = False,
    ) -> None:
        self._root = root
        self._default_model = default_model
        self._may_be_empty = may_be_empty
        self._versions = Versions(default_model)
        self._switch = Switch(
            self._versions, root, load, keep_versions=keep_versions, metrics=metrics, reload=reload, check=check
        )
        self._changing = threading.Lock()  # held while versions are loaded or let go: one change at a time
        self._seen = Look()
        self._unloaded: set[str] = set()  # by name: only a load by name brings these back
        self._wrong: Mapping[str, str] = {}  # what was said of which folder
        self.find, self.use, self.default = self._versions.find, self._versions.use, self._versions.default
        self.meant = self._versions.meant
        self.versions, self.readiness = self._versions.all, self._versions.readiness
        self.expected = self._versions.expected

    def on_change(self, changed: Callable[[], None]) -> None:
        """Have `changed` called when another model or version is there, is served or is not served any more."""
        self._switch.changed = changed

    def scan(self) -> None:
        """Find what is on disk; every version starts as LOADING.

        What stands beside models and can be none, or cannot be read, is logged; it keeps no model from being served.

        Raises:
            SetupError: the repository cannot be read, or there is no model but what can be none.
        """
        try:
            seen = looks.look(self._root.resolve(strict=True))
        except FileNotFoundError:
            raise SetupError(
                f"--repository {self._root} does not exist; `saccade export` and `make demo` make one, "
                f"its layout is ROOT/MODEL/VERSION/{FILE}"
            ) from None
        except OSError as error:
            raise SetupError(f"--repository {self._root} cannot be read: {why(error)}") from None
        without = {name: _NO_VERSION for name, found in seen.models.items() if not found}
        wrong = {**seen.unreadable, **seen.refused, **without}
        if wrong and not any(seen.models.values()):
            raise SetupError(f"--repository {self._root}: {'; '.join(f'{name}: {it}' for name, it in wrong.items())}")
        self._say(wrong)
        for name, found in seen.models.items():
            for number, files in found.items():
                self._versions.put(Version(name, number, State.LOADING, files=files))
        self._versions.expect(*self.readiness(), *seen.unreadable)
        self._seen = seen
        if self._default_model and self._default_model not in self.readiness():
            raise SetupError(
                f"--default-model {self._default_model} is not in the repository; there are: {self._versions.names()}"
            )

    def load_all(self) -> None:
        """Load the newest versions of every model, the highest first, until enough of each passed."""
        with self._changing:
            for name, found in self._seen.models.items():
                if self.readiness().get(name) is False:  # else a caller unloaded or loaded it in the meantime
                    self._switch.settle(name, found, 0.0)

    def refresh(self, seconds: float) -> None:
        """Look at the disk again; load, or let go, what this look and the one before agree on.

        A version that failed is tried again when its files changed. A model that was unloaded by name stays so. What
        cannot be read, and a repository that is suddenly empty, leave what is served as it is; that is logged once.

        Args:
            seconds: most to wait for the calls of each version that is let go.
        """
        with self._changing:
            try:
                now = looks.look(self._root.resolve(strict=True))
            except OSError as error:
                self._say({**self._wrong, "": f"it cannot be read: {why(error)}"})
                return
            known = self._versions.files()
            wrong = {**now.unreadable, **now.refused, **looks.unread(now, known)}
            if known and not (now.models or wrong or self._may_be_empty):
                self._say({**self._wrong, "": _EMPTY})
                return
            before, self._seen = self._seen, now
            for name, found in looks.agreed(before, now, known).items():
                if name in self._unloaded:
                    continue
                if found is None:
                    self._switch.let_go(name, seconds)
                    logs.info("model removed", model=name)
                elif found:
                    self._switch.settle(name, found, seconds)
                else:
                    wrong[name] = _NONE_LEFT if name in known else _NO_VERSION
            self._say(wrong)

    def load(self, name: str, seconds: float) -> None:
        """Look for the versions of one model and load what is new or changed, or failed before, without a second look.

        Args:
            name: of a folder in the repository.
            seconds: most to wait for the calls of each older version that is no longer kept.

        Raises:
            UnknownModel: the repository has no version of it.
            Unavailable: its highest version cannot be served; says why, and what is served instead. Or the server
                drains, and loads no more.
        """
        with self._changing:
            self._check_stopped()
            try:
                found = looks.look_at(self._root.resolve(), name)
            except OSError as error:
                logs.warning("model cannot be read", model=name, reason=str(error))
                found = {}
            if not found:
                raise UnknownModel(
                    f"failed to load {name[:80]!r}: the repository has no version of it; "
                    f"served are: {self._versions.names()}"
                )
            self._unloaded.discard(name)
            self._seen = replace(self._seen, models={**self._seen.models, name: found})
            self._switch.settle(name, found, seconds, again=True)
            self._check_stopped()  # in the meantime: what had not begun was not loaded
        newest = self._versions.get(name, max(found))
        if newest is not None and (newest.state is not State.READY or newest.reason):
            served = join([entry.version for entry in self.versions() if entry.name == name and entry.model])
            raise Unavailable(
                f"failed to load version {newest.version} of {name!r}: {newest.reason}; versions served: {served}"
            )

    def unload(self, name: str, seconds: float) -> None:
        """Drain every version of a model, for at most `seconds` in all, and let it go until it is loaded by name.

        Raises:
            UnknownModel: there is no such model.
        """
        with self._changing:
            self._versions.of(name)
            self._take_out(name, seconds)

    def leave_out(self, names: Iterable[str]) -> None:
        """Do as if models had been unloaded by name, those too that are not there, or cannot be read, now."""
        with self._changing:
            for name in names:
                self._take_out(name, 0.0)

    def stop(self) -> None:
        """Begin no further load; one that runs is not interrupted."""
        self._switch.stopped = True

    def close(self, seconds: float) -> None:
        """Drain every served version, for at most `seconds` in all, and let it go."""
        self.stop()
        deadline = time.monotonic() + seconds
        changing = self._changing.acquire(timeout=seconds)
        self._switch.close(max(0.0, deadline - time.monotonic()))
        if changing:
            self._changing.release()

    def _check_stopped(self) -> None:
        if self._switch.stopped:
            raise Unavailable("draining; try another server")

    def _take_out(self, name: str, seconds: float) -> None:
        self._unloaded.add(name)
        self._switch.let_go(name, seconds)
        logs.info("model unloaded", model=name)

    def _say(self, wrong: Mapping[str, str]) -> None:
        """Log what is wrong with which folder of the repository, where it was not so before."""
        for folder, reason in wrong.items():
            if self._wrong.get(folder) != reason:
                logs.warning("repository is not as expected", folder=self._root / folder, reason=reason)
        for folder in self._wrong.keys() - wrong.keys():
            logs.info("repository is as expected again", folder=self._root / folder)
        self._wrong = wrong
