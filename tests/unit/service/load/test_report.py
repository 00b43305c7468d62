"""Reports: rows, files, comparison, warnings, the story of what went wrong."""

import csv
import io
import json
from array import array
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hdrh.histogram import HdrHistogram

from service.load import plots, report, show
from service.load.objective import parse
from service.load.outcome import Outcome, Window
from service.load.plan import Load
from service.load.report import Report, Row
from service.load.scrape import ServerView

LOAD = Load("localhost:1", "/m", b"", 1, 3.0, rate=100)


def row(*, failed: int = 0, load: Load = LOAD, busiest: float = 0.1, late: int = 10, slower: int = 1) -> Row:
    """Return three seconds of answers after 1 to 100 ms; in the second one some calls fail."""
    windows = [Window(array("q", [n * 1000 * slower for n in range(1, 101)])) for _ in range(3)]
    windows[1].failed = Counter({"UNAVAILABLE": failed} if failed else {})
    outcome = Outcome(3.0, windows, 300, 300, 4, 0.3, busiest, array("q", [late] * 100))
    if failed:
        outcome.details = {"UNAVAILABLE": "connection refused"}
    view = ServerView({"queue": 1.5}, 4.0, 1200, {"queue_full": 2}, {"OK": 300}, 0.6, 100.0)
    return Row(load, outcome, view, parse("p99<150ms"))


def bench(*rows: Row) -> Report:
    """Return a report of rows."""
    return Report("saccade://localhost:1", "linear 1", "drawn pixels", list(rows))


def test_json_keeps_the_histogram(tmp_path: Path) -> None:
    """A program finds the figures, and the whole HdrHistogram to merge with others."""
    entry = json.loads(json.dumps(bench(row(failed=5)).to_json()))["rows"][0]
    assert entry["latency_ms"]["p99"] == pytest.approx(99, rel=0.002)
    assert entry["images_per_second"] == 400
    assert entry["errors"] == {"UNAVAILABLE": 5}
    assert [window["answered"] for window in entry["windows"]] == [100] * 3
    again = HdrHistogram(1, 3_600_000_000, 3)
    again.decode_and_add(entry["histogram"])
    assert again.get_total_count() == 300


def test_csv_has_a_line_a_load() -> None:
    """The CSV has a header and a line for each load, every line as long as the header."""
    file = io.StringIO()
    bench(row(), row(failed=1)).write_csv(file)
    lines = list(csv.reader(io.StringIO(file.getvalue())))
    assert len(lines) == 3
    assert len({len(line) for line in lines}) == 1
    assert dict(zip(lines[0], lines[2], strict=True))["errors"] == "1"


def test_csv_tells_refusals() -> None:
    """Refusals have a column of their own behind those that were there before, and count as errors too."""
    refused = row()
    refused.outcome.windows[0].failed = Counter({"RESOURCE_EXHAUSTED": 2, "UNAVAILABLE": 1})
    file = io.StringIO()
    bench(refused).write_csv(file)
    [line] = csv.DictReader(io.StringIO(file.getvalue()))
    assert (line["errors"], line["refused"]) == ("3", "2")
    assert list(line)[-2:] == ["refused", "fell_behind"]


def test_a_rate_that_fell_behind_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """A row that met all terms but fell behind is missed in JSON and table, with the reason."""
    behind = replace(row(), behind=True)
    entry = behind.to_json()
    assert (entry["met"], entry["fell_behind"]) == (False, True)
    found = bench(behind)
    found.found = 50.0
    show.print_report(found)
    assert "100/s: missed: 100.0 of 100.0 calls/s were answered as they came" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        ([3, 4], "3 to 4"),
        ([3, 5], "3 and 5"),
        ([0, 3, 4, 5, 50], "0 and 3 to 5 and 50"),
        ([*range(1, 20, 2)], "1 to 19, 10 of them"),
    ],
)
def test_story_says_all_times(seconds: list[int], words: str) -> None:
    """A server that was gone twice is said to have been gone twice."""
    windows = [Window(failed=Counter({"UNAVAILABLE": int(second in seconds)})) for second in range(60)]
    assert report.story(Outcome(60.0, windows)) == [
        f"{len(seconds)} of {len(seconds)} calls UNAVAILABLE in seconds {words}"
    ]


def test_story_says_when() -> None:
    """What failed is told with its seconds, its number and the server's words."""
    assert report.story(row(failed=5).outcome) == ["5 of 305 calls UNAVAILABLE in second 1: connection refused"]


@pytest.mark.parametrize(
    ("busiest", "late", "said"),
    [(0.1, 10, ""), (0.95, 10, "used 95% of a core"), (0.6, 50_000, "--processes"), (0.1, 50_000, "this machine's")],
)
def test_client_is_the_bottleneck(busiest: float, late: int, said: str) -> None:
    """A client that used up its core, or sent late, says so."""
    limits = row(busiest=busiest, late=late).client_limits
    assert said in limits
    assert bool(said) == bool(limits)


def test_nothing_measured_blames_nobody() -> None:
    """A load that was interrupted in its warm-up says nothing of the client: its CPU was not measured."""
    assert Row(LOAD, Outcome(busiest=2.14, interrupted=True)).client_limits == ""


def silent() -> Row:
    """Return a row in which no call was answered."""
    return Row(LOAD, Outcome(1.0, [Window(failed=Counter({"UNAVAILABLE": 3}))]), objective=parse("p99<150ms"))


def test_nothing_answered_has_no_latency(capsys: pytest.CaptureFixture[str]) -> None:
    """Where nothing was answered latencies are null, empty or a dash, not a perfect 0."""
    entry = bench(silent()).to_json()["rows"][0]
    assert set(entry["latency_ms"].values()) == {None}
    file = io.StringIO()
    bench(silent()).write_csv(file)
    [line] = csv.DictReader(io.StringIO(file.getvalue()))
    assert (line["p99_ms"], line["max_ms"], line["mean_ms"]) == ("", "", "")
    show.print_report(bench(silent()))
    printed = capsys.readouterr().out
    assert " 0.00 " not in printed
    assert " - " in printed


@pytest.mark.parametrize(("found", "told"), [(None, True), (100.0, True), (50.0, False)])
def test_failed_calls_beside_a_met_latency_are_told(
    capsys: pytest.CaptureFixture[str],
    found: float | None,
    told: bool,  # noqa: FBT001
) -> None:
    """Where only latency has a bound, and meets it, failed calls are told; in a search those of the rate found."""
    report = bench(row(failed=5))
    report.found = found
    show.print_report(report)
    line = "100/s: 5 of 305 calls failed and are in no latency: add errors<0.1% to --slo to bound them"
    assert (line in capsys.readouterr().out) is told


def test_tables(capsys: pytest.CaptureFixture[str]) -> None:
    """The tables show both views, what went wrong and the verdict."""
    found = bench(row(failed=5))
    found.found = 123.4
    show.print_report(found, [("100/s", {"p99": 2.0})])
    printed = capsys.readouterr().out
    for text in (
        "100/s",
        "1.64%",
        "2 queue_full",
        "500",
        "2.00",
        "UNAVAILABLE in second 1",
        " met ",
        "meets p99<150ms: 123",
    ):
        assert text in printed


def test_plot(tmp_path: Path) -> None:
    """Any number of loads, failed ones too, gives a PNG."""
    for number, rows in enumerate(
        ([row()], [row(), row(load=Load("", "", b"", 1, 3.0, rate=200), failed=2)], [silent()])
    ):
        path = tmp_path / f"{number}.png"
        plots.draw(bench(*rows), path)
        assert path.read_bytes().startswith(b"\x89PNG")
