"""Draws a bench as a PNG; the only importer of matplotlib in service."""

from pathlib import Path
from typing import Any

from service.errors import SetupError
from service.load.outcome import histogram
from service.load.report import Report, Row

_LINES = {50.0: "#4c78a8", 90.0: "#72b7b2", 99.0: "#f58518", 99.9: "#b279a2"}
_GREY, _RED = "#555555", "#e45756"
_MOST_NAMES = 14
"""Loads whose names have room side by side."""


def require() -> None:
    """Raise SetupError unless matplotlib is there: better before the load than after it."""
    try:
        import matplotlib as _  # noqa: F401
    except ImportError:
        raise SetupError("--plot needs matplotlib: `pip install '.[bench]'` in a clone of Saccade") from None


def check(path: Path) -> None:
    """Raise SetupError where matplotlib draws no such files, if it is there."""
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError:  # `require` says so
        return
    kinds = FigureCanvasBase.get_supported_filetypes()
    if path.suffix and path.suffix[1:].lower() not in kinds:
        raise SetupError(f"--plot {path}: must end in .png, or another of {', '.join(sorted(kinds))}")


def draw(report: Report, path: Path) -> None:
    """Draw latency percentiles by load, with the objective, and latency over time; nothing if nothing was measured."""
    require()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in report.rows if row.outcome.windows]
    if not rows:
        return
    alike = _alike(rows)
    several = len({_x(row) for row in alike}) > 1
    figure = Figure(figsize=(9, 8.4 if several else 4.4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{report.model} at {report.target}\n{report.content}", fontsize=10)
    axes = figure.subplots(2 if several else 1, 1, squeeze=False)[:, 0]
    if several:
        _by_load(axes[0], report, alike)
    _over_time(axes[-1], rows)
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise SetupError(f"--plot {path}: {error}") from None


def _x(row: Row) -> float:
    return row.load.rate if row.load.rate is not None else row.load.concurrency


def _alike(rows: list[Row]) -> list[Row]:
    """Return the open loops or the closed ones, whichever are more, by load: they have no axis in common."""
    openly = [row for row in rows if row.load.rate is not None]
    closed = [row for row in rows if row.load.rate is None]
    return sorted(openly if len(openly) >= len(closed) else closed, key=_x)


def _by_load(axis: Any, report: Report, rows: list[Row]) -> None:  # noqa: ANN401 - matplotlib's own
    for percent, colour in _LINES.items():
        values = [row.outcome.milliseconds(percent) or float("nan") for row in rows]
        axis.plot([_x(row) for row in rows], values, color=colour, marker="o", markersize=4, label=f"p{percent:g}")
    missed = [_x(row) for row in rows if row.met is False]
    if missed:
        foot = axis.get_xaxis_transform()
        axis.plot(missed, [0.03] * len(missed), "x", color=_RED, transform=foot, label="objective missed")
    if report.found:
        axis.axvline(report.found, color="#54a24b", linewidth=1.5, label=f"{report.found:,.0f}/s meets it")
    if rows[0].load.rate is None:
        axis.set_xscale("log", base=2)
        axis.set_xticks(sorted({_x(row) for row in rows}), minor=False)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.minorticks_off()
        axis.set_xlabel("calls at once")
    else:
        axis.xaxis.set_major_formatter("{x:,g}")
        axis.set_xlabel("offered calls a second")
    axis.set_title("Latency by load", fontsize=10)
    _finish(axis, rows)


def _over_time(axis: Any, rows: list[Row]) -> None:  # noqa: ANN401 - matplotlib's own
    """Draw the seconds of all loads one after the other."""
    from matplotlib.ticker import MaxNLocator

    start, named = 0, 1 < len(rows) <= _MOST_NAMES
    for number, row in enumerate(rows):
        _seconds(axis, row, start, first=number == 0)
        if len(rows) > 1:
            axis.axvline(start, color="#bbbbbb", linewidth=0.8)
        if named:
            place = {"xycoords": ("data", "axes fraction"), "fontsize": 7, "rotation": 30, "color": _GREY}
            axis.annotate(row.name, (start, 1.01), **place)
        start += len(row.outcome.windows)
    if any(row.outcome.failed for row in rows):
        axis.axvspan(-2, -1, color=_RED, alpha=0.15, linewidth=0, label="calls failed")  # for the legend
    axis.set_xlim(0, max(start, 1))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("seconds, one load after the other" if len(rows) > 1 else "seconds")
    axis.set_title("Latency over time", fontsize=10, pad=30 if named else 6)
    _finish(axis, rows)


def _seconds(axis: Any, row: Row, start: int, *, first: bool) -> None:  # noqa: ANN401 - matplotlib's own
    """Draw one load's seconds from `start` on; the first one's are named."""
    windows = row.outcome.windows
    made = [histogram([window.latencies]) if window.latencies else None for window in windows]
    # Between the seconds' edges, so that a stall of one second is a step and not a slope.
    edges = [start + second for second in range(len(windows) + 1)]
    for percent, colour in ((50.0, _LINES[50.0]), (99.0, _LINES[99.0]), (100.0, _GREY)):
        values = [each.get_value_at_percentile(percent) / 1000 if each else float("nan") for each in made]
        name = "max" if percent == 100.0 else f"p{percent:g}"
        label = name if first else None
        axis.stairs(values, edges, baseline=None, color=colour, linewidth=1.4, label=label)
    for second, window in enumerate(windows, start):
        if window.failed:
            axis.axvspan(second, second + 1, color=_RED, alpha=0.15, linewidth=0)


def _finish(axis: Any, rows: list[Row]) -> None:  # noqa: ANN401 - matplotlib's own
    """Draw the objective, and what all axes have."""
    from matplotlib.ticker import LogLocator, NullFormatter

    for term in rows[0].objective:
        if term.unit == "ms":
            axis.axhline(term.limit, color="black", linestyle="--", linewidth=1, label=f"objective {term}")
    axis.set_yscale("log")
    axis.set_ylabel("latency, ms")
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter("{x:,g}")
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.grid(visible=True, which="major", color="#dddddd", linewidth=0.6)
    axis.grid(visible=True, which="minor", axis="y", color="#eeeeee", linewidth=0.4)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    axis.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
