"""Draws a bench as a PNG; the only importer of matplotlib in service."""

from pathlib import Path
from typing import Any

from service.errors import SetupError
from service.load.outcome import histogram
from service.load.report import Report, Row

_LINES = {50.0: "#4c78a8", 90.0: "#72b7b2", 99.0: "#f58518", 99.9: "#e45756"}
_GREY = "#555555"


def require() -> None:
    """Raise SetupError unless matplotlib is there: better before the load than after it."""
    try:
        import matplotlib as _  # noqa: F401
    except ImportError:
        raise SetupError("--plot needs matplotlib: pip install 'saccade[bench]'") from None


def draw(report: Report, path: Path) -> None:
    """Draw latency percentiles by load, with the objective, and latency over time."""
    require()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in report.rows if row.outcome.windows]
    several = len({_x(row) for row in rows}) > 1
    figure = Figure(figsize=(9, 8.2 if several else 4.4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{report.model} at {report.target}\n{report.content}", fontsize=10)
    axes = figure.subplots(2 if several else 1, 1, squeeze=False)[:, 0]
    if several:
        _by_load(axes[0], report, rows)
    _over_time(axes[-1], rows)
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise SetupError(f"--plot {path}: {error}") from None


def _x(row: Row) -> float:
    return row.load.rate if row.load.rate is not None else row.load.concurrency


def _by_load(axis: Any, report: Report, rows: list[Row]) -> None:  # noqa: ANN401 - matplotlib's own
    openly = [row for row in rows if row.load.rate is not None]
    shown = sorted(openly if len(openly) > 1 else rows, key=_x)
    for percent, colour in _LINES.items():
        values = [row.outcome.milliseconds(percent) or None for row in shown]
        axis.plot([_x(row) for row in shown], values, color=colour, marker="o", markersize=4, label=f"p{percent:g}")
    terms = [term for term in shown[0].objective if term.unit == "ms"]
    for term in terms:
        axis.axhline(term.limit, color="black", linestyle="--", linewidth=1)
        axis.annotate(
            f"objective {term}",
            (0.01, term.limit),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            fontsize=8,
        )
    missed = [row for row in shown if row.met is False]
    for number, row in enumerate(missed):
        axis.axvline(_x(row), color="#e45756", alpha=0.25, linewidth=5, zorder=0, label=_first("missed", number))
    if report.found:
        axis.axvline(report.found, color="#54a24b", linewidth=1.5)
        text = f" {report.found:,.0f}/s meets it "
        axis.annotate(
            text, (report.found, 0.97), xycoords=("data", "axes fraction"), ha="right", color="#2d7d2a", fontsize=8
        )
    axis.set_yscale("log")
    axis.set_xlabel("offered calls a second" if openly else "calls at once")
    axis.set_ylabel("latency, ms")
    axis.set_title("Latency by load", fontsize=10)
    _finish(axis)


def _first(label: str, number: int) -> str | None:
    return label if number == 0 else None


def _over_time(axis: Any, rows: list[Row]) -> None:  # noqa: ANN401 - matplotlib's own
    """Draw the seconds of all loads one after the other."""
    start = 0
    for number, row in enumerate(rows):
        windows = row.outcome.windows
        # Between the seconds' edges, so that a stall of one second is a step and not a slope.
        edges = [start + second for second in range(len(windows) + 1)]
        for percent in (50.0, 99.0, 100.0):
            values = [
                histogram([window.latencies]).get_value_at_percentile(percent) / 1000
                if window.latencies
                else float("nan")
                for window in windows
            ]
            name = "max" if percent == 100.0 else f"p{percent:g}"
            colour = _GREY if percent == 100.0 else _LINES[percent]
            axis.stairs(values, edges, baseline=None, color=colour, linewidth=1.4, label=_first(name, number))
        broken = [start + second for second, window in enumerate(windows) if window.failed]
        for place, second in enumerate(broken):
            label = "calls failed" if place == 0 and not any(old.outcome.failed for old in rows[:number]) else None
            axis.axvspan(second, second + 1, color="#e45756", alpha=0.15, linewidth=0, label=label)
        if len(rows) > 1:
            axis.axvline(start, color="#bbbbbb", linewidth=0.8)
            if len(rows) <= 14:
                axis.annotate(
                    row.name, (start, 1.01), xycoords=("data", "axes fraction"), fontsize=7, rotation=30, color=_GREY
                )
        start += len(windows)
    limits = [term for term in (rows[0].objective if rows else ()) if term.unit == "ms"]
    for term in limits:
        axis.axhline(term.limit, color="black", linestyle="--", linewidth=1, label=f"objective {term}")
    axis.set_xlim(0, max(start, 1))
    axis.set_yscale("log")
    axis.set_xlabel("seconds, one load after the other" if len(rows) > 1 else "seconds")
    axis.set_ylabel("latency, ms")
    axis.set_title("Latency over time", fontsize=10, loc="left" if len(rows) > 1 else "center", pad=20)
    _finish(axis)


def _finish(axis: Any) -> None:  # noqa: ANN401 - matplotlib's own
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.grid(visible=True, which="major", color="#dddddd", linewidth=0.6)
    axis.grid(visible=True, which="minor", axis="y", color="#eeeeee", linewidth=0.4)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    axis.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
