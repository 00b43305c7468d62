"""A verified file becomes the next version in a model repository, by one rename: a reader sees all of it or nothing."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from service import looks
from service.errors import SetupError

FILE = "model.onnx"
_TRIES = 100


def publish(path: Path, repository: Path, name: str, beside: Mapping[str, Path] | None = None) -> Path:
    """Copy `path` to `repository/name/VERSION/model.onnx`, VERSION the next whole number; return the version's folder.

    Args:
        path: the model file.
        repository: the model repository.
        name: of the model.
        beside: files that go with it, by their place in the version's folder.

    Raises:
        SetupError: a model cannot be called so, or the repository cannot be written; nothing of the new version is
            left behind.
    """
    check_name(name)
    model = repository / name
    try:
        model.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".publish-", dir=model) as staging:
            version = Path(staging) / "version"
            version.mkdir()
            for place, file in {FILE: path, **(beside or {})}.items():
                (version / place).parent.mkdir(parents=True, exist_ok=True)
                _copy(file, version / place)
            return _rename(version, model)
    except OSError as error:
        raise SetupError(f"cannot publish to {model}: {error.strerror}") from None


def check_name(name: str) -> None:
    """Refuse a name under which no server would serve a model.

    Raises:
        SetupError: it is one.
    """
    if not looks.is_name(name):
        raise SetupError(f"a model cannot be called {name!r}: say --name, of letters, digits, '.', '_' and '-'")


def next_version(model: Path) -> int:
    """Return one more than the highest version in a model's folder; 1 where there is none."""
    return max((int(entry.name) for entry in model.iterdir() if entry.name.isdecimal()), default=0) + 1


def _copy(source: Path, target: Path) -> None:
    """Copy a file and wait until it is on the disk: the rename must never be there before the contents."""
    with source.open("rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer)
        writer.flush()
        os.fsync(writer.fileno())


def _rename(version: Path, model: Path) -> Path:
    """Give the folder the next free number; somebody else may publish at the same time."""
    for _ in range(_TRIES):
        target = model / str(next_version(model))
        try:
            return version.rename(target)
        except OSError:
            if not target.exists():
                raise
    raise SetupError(f"cannot publish to {model}: {_TRIES} other versions came first")
