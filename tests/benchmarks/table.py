"""The one table of `make bench`: what a row says, what rows share a server, how long they take."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.table import Table

from service.load.outcome import Outcome
from tests.benchmarks.machine import median


@dataclass(frozen=True)
class Plan:
    """How long is measured.

    Attributes:
        seconds: a row and round, after a warm-up.
        rounds: how often; rows and their ceilings take turns.
        calls: of the row on memory.
        models: folder with what the rows of providers and precisions run; None: it is written for each row.
    """

    seconds: float = 4.0
    rounds: int = 3
    calls: int = 200_000
    models: Path | None = None


@dataclass(frozen=True)
class Compared:
    """A figure beside its ceiling, or beside what it is compared with.

    Attributes:
        what: the figure and the ceiling in a few words, with their unit.
        figure: as measured.
        ceiling: measured in the same run, in the same unit.
        goal: what the ratio should be; empty where none was set.
    """

    what: str
    figure: float
    ceiling: float
    goal: str = ""

    @property
    def ratio(self) -> float:
        """The figure in ceilings."""
        return self.figure / self.ceiling if self.ceiling else 0.0


@dataclass(frozen=True)
class Line:
    """One row: what was served, and what that is beside its ceilings.

    Attributes:
        name: of the row.
        served: of each round; empty where nothing was.
        cpu: seconds of the server a picture, of each round; empty where that was not measured.
        compared: a row of the table each.
    """

    name: str
    compared: Sequence[Compared]
    served: Sequence[Outcome] = ()
    cpu: Sequence[float] = ()

    def cells(self) -> Iterator[Sequence[str]]:
        """Yield the cells of its rows in the table, one for each comparison."""
        figures = ["", "", "", ""]
        if self.served:
            rate = median(outcome.rate * outcome.images for outcome in self.served)
            times = [median(outcome.milliseconds(percentile) for outcome in self.served) for percentile in (50, 99)]
            cpu = number(median(self.cpu) * 1e6) if self.cpu else ""
            figures = [number(rate), *(f"{each:.2f}" for each in times), cpu]
        beginning = [self.name, *figures]
        if not self.compared:
            yield beginning
        for each in self.compared:
            yield [*beginning, each.what, number(each.figure), number(each.ceiling), f"{each.ratio:.2f}", each.goal]
            beginning = [""] * len(beginning)


Step = Callable[[float], None]
"""Told of progress: so many rows more, in parts of a row."""


@dataclass(frozen=True)
class Group:
    """Rows that share a server.

    Attributes:
        names: of its rows.
        seconds: about what one row takes.
        measure: gives the lines of the chosen rows.
    """

    names: Sequence[str]
    seconds: Callable[[Plan], float]
    measure: Callable[[Sequence[str], Plan, Step], Iterator[Line]]


def number(value: float) -> str:
    """Return a number with three digits that count."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


_NUMBERS: Sequence[tuple[str, Literal["left", "right"]]] = (
    ("row", "left"),
    ("images/s", "right"),
    ("p50 ms", "right"),
    ("p99 ms", "right"),
    ("CPU us/image", "right"),
    ("beside its ceiling", "left"),
    ("figure", "right"),
    ("ceiling", "right"),
    ("ratio", "right"),
    ("goal", "left"),
)


def table(lines: Sequence[Line]) -> Table:
    """Return the table."""
    made = Table()
    for heading, side in _NUMBERS:
        made.add_column(heading, justify=side)
    for line in lines:
        for cells in line.cells():
            made.add_row(*cells)
    return made
