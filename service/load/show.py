"""Shows a bench to people: a line that moves while a load runs, tables at the end."""

import sys
import time
from array import array
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from service.load.bench import Viewer
from service.load.objective import met, uncounted, verdict
from service.load.processes import Watch
from service.load.report import PERCENTILES, Report, Row, latencies, story
from service.load.sender import Sample

_WIDTH = 128
"""Characters, where no terminal says how wide it is."""


class Screen:
    """Shows what happens while it does, on standard error, if that is a terminal; the tables on standard output."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, transient=True, auto_refresh=False)
        self._moving = self._console.is_terminal and not quiet
        self._rows: list[Row] = []

    @property
    def viewer(self) -> Viewer:
        """What a bench tells."""
        return Viewer(self._begins, self._row, self.note)

    def __enter__(self) -> "Screen":
        if self._moving:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def note(self, text: str) -> None:
        """Show a remark."""
        self._console.print(f"note: {text}", markup=False, highlight=False, soft_wrap=True)

    def _row(self, row: Row) -> None:
        self._rows.append(row)

    def _begins(self, name: str, seconds: float) -> Watch | None:
        if not self._moving:
            return None
        started = looked = time.monotonic()
        failed: Counter[str] = Counter()
        recent: array[int] = array("q")

        def watch(sample: Sample) -> None:
            nonlocal looked, recent
            recent.extend(sample.latencies)
            failed.update(sample.failed)
            now = time.monotonic()
            if now - looked < 0.4:  # several processes tell one after the other
                return
            line = f"{name}: {min(now - started, seconds):.0f} of {seconds:.0f} s"
            self._show(line, sorted(recent), now - looked, failed)
            looked, recent = now, array("q")

        return watch

    def _show(self, line: str, latencies: Sequence[int], gap: float, failed: Counter[str]) -> None:
        table = main_table(self._rows)
        line += f", {len(latencies) / gap:,.0f} answers/s"
        if latencies:
            line += f", p50 {_ms(latencies[len(latencies) // 2] / 1000)}"
            line += f", p99 {_ms(latencies[min(len(latencies) - 1, len(latencies) * 99 // 100)] / 1000)} ms"
        line += "".join(f", {status} {count}" for status, count in failed.items())
        grid = Table.grid()
        if self._rows:
            grid.add_row(table)
        grid.add_row(Text(line))
        self._live.update(grid, refresh=True)


def print_report(
    report: Report,
    comparison: Sequence[tuple[str, dict[str, float]]] | None = None,
    differences: Sequence[str] = (),
) -> None:
    """Print the tables, what went wrong, warnings and the verdict; what else differs from what it is compared with."""
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    console.print(f"{report.target}: {report.model}, {report.content}", markup=False, highlight=False)
    if not report.rows:
        return
    console.print(main_table(report.rows))
    server = server_table(report.rows)
    if server is not None:
        console.print(server)
    if comparison:
        console.print(comparison_table(comparison))
    elif comparison is not None:
        console.print("nothing is compared: the other report has none of these loads", highlight=False)
    for line in differences:
        console.print(f"not alike in {line}", markup=False, highlight=False, soft_wrap=True)
    for row in report.rows:
        for line in _remarks(row, report.found):
            console.print(f"{row.name}: {line}", markup=False, highlight=False, soft_wrap=True)
    if report.found is not None:
        objective = ",".join(str(term) for term in report.rows[0].objective)
        found = f"{report.found:,.0f} calls/s" if report.found else "no rate that was tried"
        console.print(f"highest rate that meets {objective}: {found}", markup=False, highlight=False)


def _remarks(row: Row, found: float | None) -> list[str]:
    """Return what a row's reader must know; in a search the table has the verdict and the mark of a limiting client."""
    lines, judged = story(row.outcome), found is None
    if row.outcome.interrupted:
        lines.append(f"interrupted after {row.outcome.seconds:.1f} s")
    if row.client_limits and judged:
        lines.append(f"the client is the bottleneck: {row.client_limits}")
    if row.spread is not None:
        lines.append(f"the last rounds differ by {row.spread:.1%}")
    if row.objective and judged:
        lines.append(verdict(row.objective, row.outcome))
    if row.met and (judged or row.load.rate == found) and (line := uncounted(row.objective, row.outcome)):
        lines.append(line)
    if row.behind and met(row.objective, row.outcome):  # else the terms say why
        came = row.outcome.calls / row.outcome.seconds
        lines.append(f"missed: {row.outcome.rate:,.1f} of {came:,.1f} calls/s were answered as they came")
    return lines


def main_table(rows: Sequence[Row]) -> Table:
    """Return the client's view, a line a load."""
    good = any(row.load.deadline is not None for row in rows)
    slo = any(row.objective for row in rows)
    table = _table("load", caption="latencies in ms, from when a call was due")
    for name in ["images/s", "calls/s", *(["in time/s"] if good else [])]:
        table.add_column(name, justify="right")
    names = [*(f"p{percent:g}" for percent in PERCENTILES), "max"]
    for name in [*names, "failed", "client CPU", *(["objective"] if slo else [])]:
        table.add_column(name, justify="right")
    for row in rows:
        outcome = row.outcome
        cells = [f"{outcome.rate * outcome.images:,.0f}", f"{outcome.rate:,.0f}"]
        cells += [f"{outcome.goodput:,.0f}"] if good else []
        values = latencies(outcome)
        cells += [_ms(values[name]) for name in names]
        cells += [f"{outcome.error_share:.2%}" if outcome.failed else "0"]
        cells += [f"{outcome.cpu_seconds / max(outcome.seconds, 1e-9):.0%}{' !' if row.client_limits else ''}"]
        cells += [{True: "[green]met[/green]", False: "[red]missed[/red]", None: ""}[row.met]] if slo else []
        table.add_row(escape(row.name), *cells)
    return table


def server_table(rows: Sequence[Row]) -> Table | None:
    """Return the server's view, a line a load; None where nobody has seen it."""
    views = [(row, row.server) for row in rows if row.server is not None]
    if not views:
        return None
    table = _table("server's view")
    for name in ("decode ms", "queue ms", "inference ms", "images/batch", "refused", "CPU us/image", "MB"):
        table.add_column(name, justify="right")
    for row, view in views:
        cpu = view.cpu_seconds * 1e6 / view.images if view.cpu_seconds is not None and view.images else None
        refused = ", ".join(f"{count} {reason}" for reason, count in view.refused.items())
        table.add_row(
            escape(row.name),
            *(_ms(view.stages[stage]) if stage in view.stages else "" for stage in ("decode", "queue", "inference")),
            f"{view.batch:.1f}" if view.batch else "",
            refused or "0",
            f"{cpu:,.0f}" if cpu is not None else "",
            f"{view.memory_mb:,.0f}" if view.memory_mb else "",
        )
    return table


def comparison_table(comparison: Sequence[tuple[str, dict[str, float]]]) -> Table:
    """Return new by old, a line a load that both have."""
    names: list[Any] = list(dict.fromkeys(name for _, found in comparison for name in found))
    table = _table("new / old")
    for name in names:
        table.add_column(name, justify="right")
    for load, found in comparison:
        table.add_row(escape(load), *(f"{found[name]:.2f}" if name in found else "" for name in names))
    return table


def _table(first: str, caption: str | None = None) -> Table:
    table = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left", padding=(0, 1, 0, 0))
    table.add_column(first, no_wrap=True)
    return table


def _ms(value: float | None) -> str:
    """Return milliseconds in three digits; a dash where there are none."""
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"
