"""Comparison with an earlier report."""

import json
from array import array
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.errors import SetupError
from service.load import comparison
from service.load.outcome import Outcome, Window
from service.load.plan import Load
from service.load.report import Report, Row

LOAD = Load("localhost:1", "/m", b"", 1, 3.0, rate=100)
FACTS: dict[str, Any] = {"images_per_call": 1, "deadline_ms": None, "stream": False}


def row(*, load: Load = LOAD, slower: int = 1) -> Row:
    """Return a second of answers after 1 to 100 ms, times so many."""
    answers = array("q", [n * 1000 * slower for n in range(1, 101)])
    return Row(load, Outcome(1.0, [Window(answers)], 100, 100))


def silent() -> Row:
    """Return a row in which no call was answered."""
    return Row(LOAD, Outcome(1.0, [Window(failed=Counter({"UNAVAILABLE": 3}))]))


def bench(*rows: Row, model: str = "linear 1", content: str = "drawn pixels", **facts: Any) -> Report:  # noqa: ANN401 - any
    """Return a report of rows."""
    return Report("saccade://localhost:1", model, content, list(rows), facts=FACTS | facts)


def saved(report: Report) -> dict[str, Any]:
    """Return a report as a program reads it."""
    entry: dict[str, Any] = json.loads(json.dumps(report.to_json()))
    return entry


def test_comparison(tmp_path: Path) -> None:
    """The same load in an older report is compared by ratios; one that it lacks is left out."""
    path = tmp_path / "old.json"
    path.write_text(json.dumps(bench(row()).to_json()))
    other = Load("localhost:1", "/m", b"", 8, 3.0)
    [(name, found)] = comparison.ratios(comparison.read(path), [row(slower=2), row(load=other)])
    assert name == "100/s"
    assert found["throughput"] == 1
    assert found["p99"] == pytest.approx(2, rel=0.002)


@pytest.mark.parametrize("text", ["", "[]", '{"rows": 1}', '{"rows": []}'])
def test_no_report(tmp_path: Path, text: str) -> None:
    """A file that is no report is refused by name."""
    path = tmp_path / "old.json"
    path.write_text(text)
    with pytest.raises(SetupError, match=r"old\.json"):
        comparison.read(path)


def test_a_row_without_what_is_compared(tmp_path: Path) -> None:
    """A report whose rows lack a figure that is compared is refused before the bench, by the figure's name."""
    path, entry = tmp_path / "old.json", saved(bench(row()))
    del entry["rows"][0]["throughput"]
    path.write_text(json.dumps(entry))
    with pytest.raises(SetupError, match="throughput"):
        comparison.read(path)


def test_a_row_with_words_for_figures(tmp_path: Path) -> None:
    """A report whose figures are no numbers is refused before the bench."""
    path, entry = tmp_path / "old.json", saved(bench(row()))
    entry["rows"][0]["latency_ms"]["p99"] = "fast"
    path.write_text(json.dumps(entry))
    with pytest.raises(SetupError, match="p99 of 100/s is no number"):
        comparison.read(path)


@pytest.mark.parametrize(("old", "new"), [(row(), silent()), (silent(), row())])
def test_no_ratio_of_what_is_not_there(old: Row, new: Row) -> None:
    """Where either side answered nothing there is no ratio of latencies."""
    [(_, found)] = comparison.ratios(saved(bench(old)), [new])
    assert set(found) <= {"throughput"}


def test_alike() -> None:
    """Reports of the same model and the same load differ in nothing but figures."""
    assert not comparison.differences(saved(bench(row())), bench(row(slower=2)))


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (bench(row(), model="resnet50 1"), "model: linear 1 then, resnet50 1 now"),
        (bench(row(), content="3 files"), "content: drawn pixels then, 3 files now"),
        (bench(row(), images_per_call=8), "images a call: 1 then, 8 now"),
        (bench(row(), deadline_ms=200.0), "deadline in ms: none then, 200.0 now"),
        (bench(row(), stream=True), "streams: no then, yes now"),
        (bench(row(load=replace(LOAD, arrivals="constant"))), "arrivals: poisson then, constant now"),
    ],
)
def test_what_differs_is_told(now: Report, said: str) -> None:
    """What makes figures differ beside the server is told: model, content, images, deadline, streams, arrivals."""
    assert comparison.differences(saved(bench(row())), now) == [said]


def test_an_older_report() -> None:
    """What an older report does not tell is no difference."""
    entry = saved(bench(row()))
    del entry["stream"]
    assert not comparison.differences(entry, bench(row(), stream=True))
