"""Grafana's panels and variables as JSON, and their places on its grid."""

from collections.abc import Iterator, Sequence
from typing import Any

JOB = 'job=~"$job"'
SOURCE = {"type": "prometheus", "uid": "$datasource"}
COLUMNS = 24
"""Of Grafana's grid."""

Queries = dict[str, str]
"""PromQL by the legend of its series."""
Panel = dict[str, Any]

_OPTIONS: dict[str, Any] = {
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "graphMode": "area",
        "colorMode": "value",
        "textMode": "auto",
    },
    "table": {"showHeader": True},
}


def panel(
    title: str,
    targets: Queries,
    *,
    kind: str = "timeseries",
    unit: str = "short",
    width: int = 8,
    most: float | None = None,
    right: str = "",
    about: str = "",
) -> Panel:
    """Return a panel without its place.

    Args:
        title: above it.
        targets: what it shows.
        kind: Grafana's name: timeseries, stat or table.
        unit: Grafana's name of the unit of the values.
        width: of the grid's 24 columns.
        most: value from which on it is red.
        right: unit of the last query, where that is another; it gets an axis on the right.
        about: what a reader should know.
    """
    table = kind == "table"
    entries = [
        {
            "refId": chr(ord("A") + number),
            "datasource": SOURCE,
            "expr": expr,
            "legendFormat": legend or "__auto",
            **({"format": "table", "instant": True} if table else {}),
        }
        for number, (legend, expr) in enumerate(targets.items())
    ]
    defaults: dict[str, Any] = {"unit": unit, "min": 0}
    if most is not None:
        steps = [{"color": "green", "value": None}, {"color": "red", "value": most}]
        defaults |= {"color": {"mode": "thresholds"}, "thresholds": {"mode": "absolute", "steps": steps}}
    other = {"id": "byFrameRefID", "options": entries[-1]["refId"]}
    axis = [{"id": "unit", "value": right}, {"id": "custom.axisPlacement", "value": "right"}]
    hidden = {"id": "organize", "options": {"excludeByName": {"Time": True, "Value": True}}}
    return {
        "title": title,
        "description": about,
        "type": kind,
        "datasource": SOURCE,
        "gridPos": {"w": width, "h": 5 if kind in {"stat", "table"} else 8},
        "fieldConfig": {"defaults": defaults, "overrides": [{"matcher": other, "properties": axis}] if right else []},
        "options": _OPTIONS[kind],
        "targets": entries,
        **({"transformations": [hidden]} if table else {}),
    }


def placed(rows: Sequence[tuple[str, Sequence[Panel]]]) -> Iterator[Panel]:
    """Yield the panels of each row, below its title, with their numbers and places."""
    number = top = 0
    for title, panels in rows:
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "gridPos": {"x": 0, "y": top, "w": COLUMNS, "h": 1},
            "panels": [],
        }
        top, left = top + 1, 0
        for each in panels:
            number += 1
            yield {"id": number, **each, "gridPos": {**each["gridPos"], "x": left, "y": top}}
            left += each["gridPos"]["w"]
        top += panels[0]["gridPos"]["h"]


def variables() -> list[dict[str, Any]]:
    """Return what a reader may choose: the Prometheus, the job, the model."""
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    return [source, _variable("job", "saccade_model_ready"), _variable("model", f"saccade_model_ready{{{JOB}}}")]


def _variable(label: str, series: str) -> dict[str, Any]:
    return {
        "name": label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": f"label_values({series}, {label})", "refId": label},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }
