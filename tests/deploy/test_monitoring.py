"""The Prometheus rules and the Grafana dashboard: made from the service's metrics, checked by Prometheus' own tool."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.objects import DEPLOY, tool

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def check(root: Path) -> subprocess.CompletedProcess[str]:
    """Run the check that `make check` runs, on a copy of the tree."""
    return subprocess.run(
        [sys.executable, "deploy/monitoring/generate.py", "--check"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def copy(to: Path, *, old: str, new: str) -> Path:
    """Return a copy of service/ and deploy/ in which metrics.py says `new` where it said `old`."""
    for folder in ("service", "deploy"):
        shutil.copytree(ROOT / folder, to / folder, ignore=shutil.ignore_patterns("bundled", "__pycache__"))
    metrics = to / "service/metrics.py"
    text = metrics.read_text()
    assert old in text
    metrics.write_text(text.replace(old, new))
    return to


def test_rules_and_dashboard_are_current() -> None:
    """The files in git are what the generator makes of today's metrics."""
    done = check(ROOT)
    assert done.returncode == 0, done.stderr


def test_a_renamed_metric_is_noticed(tmp_path: Path) -> None:
    """A metric with a new name fails the check, which names the queries that would find nothing."""
    done = check(copy(tmp_path, old='"saccade_refused"', new='"saccade_rejected"'))
    assert done.returncode == 1
    assert "saccade_refused_total" in done.stderr
    assert "saccade_rejected_total is on no panel" in done.stderr


def test_a_renamed_label_is_noticed(tmp_path: Path) -> None:
    """A label with a new name fails the check too."""
    done = check(copy(tmp_path, old='["model", "reason"]', new='["model", "why"]'))
    assert done.returncode == 1
    assert "label reason" in done.stderr


def test_prometheus_takes_the_rules() -> None:
    """Promtool finds nothing wrong with the rules."""
    done = subprocess.run(
        [tool("promtool"), "check", "rules", str(DEPLOY / "monitoring/rules.yaml")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_alerts_fire_when_they_should() -> None:
    """Promtool's unit tests in alerts*.yaml: each alert fires on what it is for, and not before."""
    done = subprocess.run(
        [tool("promtool"), "test", "rules", *map(str, sorted(HERE.glob("alerts*.yaml")))],
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_renamed_metric_of_the_workers_is_noticed(tmp_path: Path) -> None:
    """What only a supervisor counts is checked as well."""
    done = check(copy(tmp_path, old='"saccade_worker_restarts"', new='"saccade_worker_returns"'))
    assert done.returncode == 1
    assert "names saccade_worker_restarts_total" in done.stderr
    assert "saccade_worker_returns_total is on no panel" in done.stderr


PANELS = json.loads((DEPLOY / "monitoring/dashboard.json").read_text())["panels"]
UNITS = {"short", "s", "reqps", "percentunit", "bytes"}
"""Grafana's names of those that are used; it shows the numbers bare under a name that it does not know."""


def test_panels_do_not_overlap() -> None:
    """Each panel has a number of its own, and no cell of the grid of 24 columns belongs to two."""
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    taken: dict[tuple[int, int], str] = {}
    for panel in PANELS:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                other = taken.setdefault((x, y), panel["title"])
                assert other == panel["title"], f"{other} and {panel['title']} overlap"


def test_rows_are_full() -> None:
    """The panels of a row are of one height and fill its 24 columns: no hole is left."""
    rows: dict[int, list[dict[str, int]]] = {}
    for panel in PANELS:
        rows.setdefault(panel["gridPos"]["y"], []).append(panel["gridPos"])
    for places in rows.values():
        assert sum(place["w"] for place in places) == 24
        assert len({place["h"] for place in places}) == 1


@pytest.mark.parametrize(
    "panel", [panel for panel in PANELS if panel["type"] != "row"], ids=lambda panel: panel["title"]
)
def test_a_panel_can_be_read(panel: dict[str, Any]) -> None:
    """A panel has a unit that Grafana knows, and where it shows several series their names differ."""
    overrides = [each["value"] for entry in panel["fieldConfig"]["overrides"] for each in entry["properties"]]
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert set(overrides) <= UNITS | {"right"}
    legends = [target["legendFormat"] for target in panel["targets"]]
    assert len(set(legends)) == len(legends)
    for target in panel["targets"]:
        grouped = re.match(r"(?:sum|max) by \(([^)]*)\)", target["expr"])
        named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        if grouped and panel["type"] != "table":
            assert named == set(re.split(r", ", grouped[1])), target
