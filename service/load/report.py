"""What a bench found, as rows for people, for programs and for the next bench to compare with."""

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from service.errors import SetupError
from service.load.objective import Term, met
from service.load.outcome import REFUSED, Outcome, histogram
from service.load.plan import Load
from service.load.scrape import ServerView

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)
_MOST_SPANS = 4
_BUSY = 0.85
"""CPU seconds a second of a process of the client from which on it counts as the bottleneck."""
_HALF = 0.5
"""CPU seconds a second below which a client that is late waits for a core: more processes would wait likewise."""
_LATE_MS, _LATE_SHARE = 1.0, 0.5
"""Calls sent so late, and by so much of the 99 % latency, that the client's own delay is in the figures."""


@dataclass(frozen=True)
class Row:
    """One load and what came of it.

    Attributes:
        spread: how far the last rounds differ; None where there was one.
        behind: whether a search counts it as missed because it was not answered as fast as it came.
    """

    load: Load
    outcome: Outcome
    server: ServerView | None = None
    objective: tuple[Term, ...] = ()
    spread: float | None = None
    behind: bool = False

    @property
    def name(self) -> str:
        """The load, for people."""
        return f"{self.load.rate:g}/s" if self.load.rate is not None else f"{self.load.concurrency} at once"

    @property
    def met(self) -> bool | None:
        """Whether the objective was met, in a search by a rate that kept up; None without one."""
        return met(self.objective, self.outcome) and not self.behind if self.objective else None

    @property
    def client_limits(self) -> str:
        """Why the client itself is the bottleneck; empty where it is not."""
        outcome = self.outcome
        if not outcome.calls:
            return ""
        if outcome.busiest > _BUSY:
            return f"a process of the client used {outcome.busiest:.0%} of a core; try --processes"
        late = outcome.late_milliseconds
        if late > max(_LATE_MS, _LATE_SHARE * outcome.milliseconds(99)):
            why = "try --processes" if outcome.busiest > _HALF else "something else takes this machine's cores"
            return f"1 % of the calls were sent more than {late:.1f} ms late, which is in their latency; {why}"
        return ""

    def to_json(self) -> dict[str, Any]:
        """Return the row for a program."""
        load, outcome = self.load, self.outcome
        return {
            "load": self.name,
            "rate": load.rate,
            "arrivals": load.arrivals if load.rate is not None else None,
            "concurrency": load.concurrency if load.rate is None else None,
            "seed": load.seed if load.rate is not None else None,
            "seconds": round(outcome.seconds, 3),
            "calls": outcome.calls,
            "answered": outcome.answered,
            "throughput": round(outcome.rate, 2),
            "goodput": round(outcome.goodput, 2),
            "images_per_second": round(outcome.rate * outcome.images, 2),
            "errors": dict(outcome.failed),
            "error_details": outcome.details,
            "latency_ms": latencies(outcome),
            "histogram": outcome.latencies.encode().decode("ascii"),
            "windows": [
                {"second": second, "answered": len(window.latencies), "failed": dict(window.failed)}
                | {f"p{percent:g}_ms": value for percent, value in _window(window.latencies).items()}
                for second, window in enumerate(outcome.windows)
            ],
            "client": {
                "cpu_seconds": round(outcome.cpu_seconds, 3),
                "busiest_core": round(outcome.busiest, 3),
                "late_p99_ms": round(outcome.late_milliseconds, 3),
                "bottleneck": self.client_limits,
            },
            "server": self.server.to_json() if self.server else None,
            "objective": {str(term): term.met(outcome) for term in self.objective},
            "met": self.met,
            "fell_behind": self.behind,
            "interrupted": outcome.interrupted,
            "spread": self.spread,
        }


def latencies(outcome: Outcome) -> dict[str, float | None]:
    """Return milliseconds by name: the percentiles, mean and max; None where nothing was answered, which has none."""
    named = {f"p{percent:g}": outcome.milliseconds(percent) for percent in PERCENTILES}
    named |= {"max": outcome.milliseconds(100), "mean": outcome.mean_milliseconds}
    return {name: round(value, 3) if outcome.answered else None for name, value in named.items()}


def _window(values: Any) -> dict[float, float]:  # noqa: ANN401 - an array
    made = histogram([values])
    return {percent: made.get_value_at_percentile(percent) / 1000 for percent in (50, 99)} if values else {}


@dataclass
class Report:
    """One bench.

    Attributes:
        target: scheme and address.
        model: that answered.
        content: what a message held.
        rows: one a load.
        found: the highest rate that met the objective, if it was searched; None otherwise.
        limited: why the client, not the server, may have set that limit; empty where it did not.
        broken: why it ended before its time, if the load generator itself failed; the rows before that are whole.
        facts: what else a reader should know, by name.
    """

    target: str
    model: str
    content: str
    rows: list[Row] = field(default_factory=list)
    found: float | None = None
    limited: str = ""
    broken: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the report for a program."""
        return {
            "saccade_bench": 1,
            "target": self.target,
            "model": self.model,
            "content": self.content,
            **self.facts,
            "rows": [row.to_json() for row in self.rows],
            "max_rate": self.found,
            "max_rate_client_limit": self.limited,
            **({"broken": self.broken} if self.broken else {}),
        }

    def save_csv(self, path: Path) -> None:
        """Write a line a load into a file.

        Raises:
            SetupError: it cannot be written.
        """
        try:
            with path.open("w", newline="") as file:
                self.write_csv(file)
        except OSError as error:
            raise SetupError(f"--csv {path}: {error.strerror}") from None

    def write_csv(self, file: TextIO) -> None:
        """Write a line a load."""
        columns = [f"p{percent:g}" for percent in PERCENTILES]
        writer = csv.writer(file)
        writer.writerow(
            ["load", "rate", "concurrency", "calls", "answered", "errors", "throughput", "goodput", "images_per_second"]
            + [f"{name}_ms" for name in (*columns, "max", "mean")]
            + ["client_cpu_seconds", "met", "refused", "fell_behind"]
        )
        for row in self.rows:
            entry, outcome = row.to_json(), row.outcome
            writer.writerow(
                [entry[name] for name in ("load", "rate", "concurrency", "calls", "answered")]
                + [outcome.failed.total()]
                + [entry[name] for name in ("throughput", "goodput", "images_per_second")]
                + list(entry["latency_ms"].values())
                + [entry["client"]["cpu_seconds"], entry["met"], outcome.failed[REFUSED], row.behind]
            )


def _spans(seconds: Sequence[int]) -> str:
    """Return rising numbers in words: `3 to 5 and 50`; where there are more than four gaps only the outermost."""
    starts = [second for second in seconds if second - 1 not in seconds]
    ends = [second for second in seconds if second + 1 not in seconds]
    if len(starts) > _MOST_SPANS:
        return f"{seconds[0]} to {seconds[-1]}, {len(seconds)} of them"
    spans = [f"{start} to {end}" if end > start else str(start) for start, end in zip(starts, ends, strict=True)]
    return " and ".join(spans)


def story(outcome: Outcome) -> list[str]:
    """Return what went wrong and when, a line a status: which seconds, how many calls, the first message."""
    lines = []
    for status, count in outcome.failed.most_common():
        seconds = [second for second, window in enumerate(outcome.windows) if window.failed[status]]
        when = f"in second {seconds[0]}" if len(seconds) == 1 else f"in seconds {_spans(seconds)}"
        detail = outcome.details.get(status, "").strip().split("\n")[0]
        lines.append(f"{count} of {outcome.calls} calls {status} {when}" + (f": {detail[:160]}" if detail else ""))
    return lines


def check_writable(path: Path, flag: str) -> None:
    """Raise SetupError unless a file can be written there."""
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise SetupError(f"{flag} {path}: no file can be written there")
