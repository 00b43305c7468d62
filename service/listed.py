"""The models command: the versions that a server knows, as a table for people."""

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Column, Table

from service.client import ModelEntry

_WIDE = 1000
"""Characters of a line where nobody's terminal sets a bound: no table is that wide, and none is cut."""
_FIRST = ("model", "version", "state")
_OTHERS = ("runs on", "verified", "input", "classes", "accuracy")
_LEAST, _AROUND = 4, 3
"""Characters that a cell of the others needs to be read, and those between two cells."""


def print_table(entries: Sequence[ModelEntry]) -> None:
    """Print a row for each version, then what there is to say of some of them."""
    console = Console(width=None if sys.stdout.isatty() else _WIDE)
    console.print(table(entries, console.width))
    for entry in entries:
        if entry.reason:
            console.print(
                f"{entry.name} {entry.version}: {entry.reason}", markup=False, highlight=False, soft_wrap=True
            )
    if any(entry.default for entry in entries):
        console.print("* answers requests that name no model")


def table(entries: Sequence[ModelEntry], width: int) -> Table:
    """Return the table for a console so wide; nothing is cut, and the other columns make room for these three first."""
    firsts = [(f"{it.name} *" if it.default else it.name, it.version, it.state) for it in entries]
    taken = sum(max(map(len, column)) + _AROUND for column in zip(_FIRST, *firsts, strict=True))
    whole = taken + len(_OTHERS) * (_LEAST + _AROUND) <= width
    columns = [Column(name, no_wrap=whole, overflow="fold") for name in _FIRST]
    found = Table(*columns, *(Column(name, overflow="fold") for name in _OTHERS))
    for first, entry in zip(firsts, entries, strict=True):
        found.add_row(
            *first,
            f"{entry.provider} {entry.precision}".strip(),
            "yes" if entry.verified else "no",
            f"{entry.height}x{entry.width}x{entry.channels}" if entry.height else "",
            str(len(entry.labels) or ""),
            f"{entry.accuracy:.2%}" if entry.accuracy else "",
        )
    return found
