"""A model repository on disk that a test changes, and what a `Repository` makes of it, with models that are fakes."""

import os
import shutil
from pathlib import Path
from typing import cast

from service.metrics import Metrics
from service.repository import Repository
from service.switch import Check, Reload
from service.versions import State
from tests.loads import FakeModel, Loads


def tick(folder: Path) -> None:
    """Return when the file system's clock has gone on, which it does every few milliseconds."""
    (probe := folder / "probe").touch()
    before = probe.stat().st_ctime_ns
    while probe.stat().st_ctime_ns == before:
        probe.touch()
    probe.unlink()


class Disk:
    """A repository on disk, with version 1 of model a.

    Args:
        root: its folder; it is made.

    Attributes:
        loads: what loads its versions.
        metrics: what is counted of them.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.loads, self.metrics = Loads(), Metrics()
        self._now = 0
        self.write("a/1/model.onnx")

    def write(self, *files: str) -> None:
        """Write files, or write them again, each at a time of its own."""
        for file in files:
            path = self.root / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            self._now += 1
            os.utime(path, ns=(0, self._now))

    def chmod(self, file: str, mode: int) -> None:
        """Change the mode of a file, at a time at which nothing else was changed."""
        tick(self.root)
        (self.root / file).chmod(mode)

    def forge(self, file: str, text: str) -> None:
        """Write a file again as `cp -p` does it, with the time that it has."""
        path = self.root / file
        before = path.stat().st_mtime_ns
        tick(self.root)
        path.write_text(text)
        os.utime(path, ns=(0, before))

    def remove(self, *folders: str) -> None:
        """Remove folders and what is in them."""
        for folder in folders:
            shutil.rmtree(self.root / folder)

    def open(
        self, keep: int = 2, reload: Reload = "beside", *, may_be_empty: bool = False, check: Check = lambda _: None
    ) -> Repository:
        """Return a repository of it, loaded; what was asked for until then does not count."""
        repository = Repository(
            self.root,
            self.loads,
            keep_versions=keep,
            default_model=None,
            metrics=self.metrics,
            reload=reload,
            check=check,
            may_be_empty=may_be_empty,
        )
        repository.scan()
        repository.load_all()
        self.loads.asked.clear()
        return repository


def look(repository: Repository, times: int = 2) -> None:
    """Look so many times."""
    for _ in range(times):
        repository.refresh(1.0)


def states(repository: Repository, name: str = "a") -> dict[int, State]:
    """Return the state of each version of a model."""
    return {entry.version: entry.state for entry in repository.versions() if entry.name == name}


def reason(repository: Repository, version: int) -> str:
    """Return what is said of a version of a."""
    return next(entry.reason for entry in repository.versions() if entry.version == version)


def served(repository: Repository, version: str = "") -> FakeModel:
    """Return what answers a call to a, or to one version of it."""
    return cast("FakeModel", repository.find("a", version))
