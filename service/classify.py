"""The classify command: pictures from files, folders and standard input to rows of labels."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from service.client import Category, Client
from service.connection import Connection
from service.errors import DeadlineExceeded, InferenceFailed, InvalidInput, Overloaded, SaccadeError, SetupError

STDIN = Path("-")
EXAMPLES = Path(__file__).parent / "bundled/pictures"
"""Ten drawn digits, for whoever has no picture at hand."""
SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
"""What a folder's pictures end in; a file that is named is taken whatever its name."""
CALLERS = 8
_BAR = 8
"""Characters of a bar that stands for a probability of 1."""
_NAME = 36
"""Characters of a picture's name that are shown, its end."""

Classify = Callable[[bytes], tuple[str, str, Sequence[Category]]]
"""Classifies one encoded picture: (model, version, categories)."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one picture gave: its categories, or why there are none."""

    picture: str
    model: str = ""
    version: str = ""
    categories: Sequence[Category] = ()
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the row for a program: its categories, or its error."""
        if self.error:
            return {"picture": self.picture, "error": self.error}
        categories = [asdict(category) for category in self.categories]
        return {"picture": self.picture, "model": self.model, "version": self.version, "categories": categories}


def pictures(paths: Sequence[Path]) -> list[Path]:
    """Return the files that the paths mean; the pictures of a folder, those below it too, by name.

    Raises:
        SetupError: a path does not exist or cannot be looked into, or a folder has no pictures.
    """
    try:
        return [picture for path in paths for picture in _below(path)]
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        why = f"{error.filename} cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
        raise SetupError(why) from None


def _below(path: Path) -> list[Path]:
    if not path.is_dir():
        if path != STDIN and not path.exists():
            raise SetupError(f"{path} does not exist")
        return [path]

    def raised(error: OSError) -> None:
        raise error

    inside = [Path(folder, name) for folder, _, names in os.walk(path, onerror=raised) for name in names]
    found = sorted(entry for entry in inside if entry.suffix.lower() in SUFFIXES and entry.is_file())
    if not found:
        raise SetupError(f"{path} has no pictures; they end in {', '.join(sorted(SUFFIXES))}")
    return found


def rows(paths: Sequence[Path], classify: Classify) -> Iterator[Row]:
    """Yield a row for each file, in order; several are under way at once, and a bad one is a row like the others."""
    # Here, where Ctrl-C ends it, and not on a thread, which would go on reading.
    piped = _piped() if STDIN in paths else b""

    def row(path: Path) -> Row:
        try:
            encoded = piped if path == STDIN else path.read_bytes()
            return Row(str(path), *classify(encoded))
        except InvalidInput as error:
            return Row(str(path), error=error.reason if error.field.startswith("images[") else str(error))
        except (DeadlineExceeded, InferenceFailed, Overloaded) as error:  # others would befall every picture
            return Row(str(path), error=str(error))
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            return Row(str(path), error=f"cannot be read: {getattr(error, 'strerror', None) or error}")

    callers = ThreadPoolExecutor(CALLERS)
    try:
        yield from callers.map(row, paths)
    finally:  # without waiting: after Ctrl-C the client that they ask by is closed, which ends what is under way
        callers.shutdown(wait=False, cancel_futures=True)


def _piped() -> bytes:
    """Return what standard input gives.

    Raises:
        SetupError: it is closed, or cannot be read.
    """
    if sys.stdin is None:
        raise SetupError("standard input is closed; name a picture's file, or send one to it")
    try:
        return sys.stdin.buffer.read()
    except OSError as error:
        raise SetupError(f"standard input cannot be read: {error.strerror}") from None


@contextmanager
def by_server(connection: Connection, *, model: str, version: str, top_k: int, timeout: float) -> Iterator[Classify]:
    """Give a function that asks a server."""

    def ask(encoded: bytes) -> tuple[str, str, Sequence[Category]]:
        answer = client.classify(encoded, model=model, version=version, top_k=top_k)
        return answer.model, answer.version, answer.classifications[0]

    with Client(connection=connection, timeout=timeout) as client:
        yield ask


@contextmanager
def in_process(repository: Path | None, *, model: str, version: str, top_k: int) -> Iterator[Classify]:
    """Give a function that runs the model in this process: the server's own path without the server.

    Raises:
        SetupError: the repository cannot be read, or ONNX Runtime is missing.
        SaccadeError: no such model or version, or it failed.
    """
    from service.config import load_settings
    from service.metrics import Metrics
    from service.server import open_repository
    from service.session import check_runtime

    check_runtime()  # one sentence here, instead of a version that failed and a traceback in the log
    opened = open_repository(load_settings(repository=repository), Metrics())
    opened.scan()
    opened.load_all()
    chosen = opened.find(model, version)

    def ask(encoded: bytes) -> tuple[str, str, Sequence[Category]]:
        answer = chosen.classify([encoded], top_k=top_k)
        best = [Category(entry.index, entry.label, entry.probability) for entry in answer.classifications[0]]
        return chosen.facts.name, str(chosen.facts.version), best

    try:
        yield ask
    finally:
        opened.close(seconds=1.0)


def print_table(found: Sequence[Row], top_k: int) -> None:
    """Print the rows for people, each label with a bar as long as it is probable."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    places = max((len(row.categories) for row in found), default=top_k)
    names = {f"{row.model} version {row.version}" for row in found if not row.error}
    table = Table("picture", *(f"{place}." for place in range(1, places + 1)), title=", ".join(sorted(names)) or None)
    for row in found:
        cells = [f"[red]{escape(row.error)}[/red]"] if row.error else [_cell(category) for category in row.categories]
        name = row.picture if len(row.picture) <= _NAME else "…" + row.picture[1 - _NAME :]
        table.add_row(escape(name), *cells)
    Console().print(table)


def _cell(category: Category) -> str:
    from rich.markup import escape

    halves = round(2 * category.probability * _BAR)
    bar = "█" * (halves // 2) + "▌" * (halves % 2)
    return f"{escape(category.label)} {category.probability:.1%} [cyan]{bar}[/cyan]"


def failed(found: Sequence[Row]) -> SaccadeError | None:
    """Return the error of the command as a whole: how many pictures gave none."""
    bad = sum(bool(row.error) for row in found)
    return SetupError(f"{bad} of {len(found)} pictures could not be classified") if bad else None
