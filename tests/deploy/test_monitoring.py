"""The Prometheus rules and the Grafana dashboard: made from the service's metrics, checked by Prometheus' own tool."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

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
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_panels_have_numbers_of_their_own() -> None:
    """Each panel of the dashboard has an id and a place of its own, inside the grid of 24 columns."""
    panels = json.loads((DEPLOY / "monitoring/dashboard.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)
