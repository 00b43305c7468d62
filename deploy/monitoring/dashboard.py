"""The Grafana dashboard: every panel and its queries."""

from collections.abc import Iterator
from typing import Any

_JOB = 'job=~"$job"'
_IN = f'{_JOB}, model=~"$model"'
_STAGE = "{{model}} {{stage}}"
_RATE = "[$__rate_interval]"
_SOURCE = {"type": "prometheus", "uid": "$datasource"}

Queries = dict[str, str]
"""PromQL by the legend of its series."""


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana imports it."""
    return {
        "uid": "saccade",
        "title": "Saccade",
        "tags": ["saccade", "inference"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": _variables()},
        "panels": list(_placed(_rows())),
    }


def queries(board: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each panel's title and one of its queries."""
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


def _quantile(quantile: float, metric: str, labels: str, where: str = "") -> str:
    selector = f"{_IN}, {where}" if where else _IN
    return f"histogram_quantile({quantile:g}, sum by ({labels}, le) (rate({metric}_bucket{{{selector}}}{_RATE})))"


def _rate(metric: str, labels: str, selector: str = _IN) -> str:
    return f"sum by ({labels}) (rate({metric}{{{selector}}}{_RATE}))"


def _mean(metric: str, labels: str, window: str = _RATE) -> str:
    total = f"sum by ({labels}) (rate({metric}_sum{{{_IN}}}{window}))"
    return f"{total} / sum by ({labels}) (rate({metric}_count{{{_IN}}}{window}))"


def _share(window: str) -> str:
    by_label = f"sum by (model, label) (rate(saccade_predictions_total{{{_IN}}}{window}))"
    return f"{by_label} / on (model) group_left sum by (model) (rate(saccade_predictions_total{{{_IN}}}{window}))"


def _rows() -> list[tuple[str, list[dict[str, Any]]]]:
    bad = 'code!~"OK|CANCELLED"'
    served = f"max by (model, version, provider, precision, verified, sha256) (saccade_model_info{{{_IN}}} == 1)"
    return [
        (
            "Now",
            [
                _panel(
                    "Calls a second", {"": f"sum(rate(saccade_requests_total{{{_IN}}}{_RATE}))"}, kind="stat", width=4
                ),
                _panel(
                    "Calls that fail, 5 minutes",
                    {"": f"max(saccade:request_errors:ratio_rate5m{{{_JOB}}})"},
                    kind="stat",
                    unit="percentunit",
                    width=4,
                ),
                _panel(
                    "p99",
                    {"{{model}}": _quantile(0.99, "saccade_request_seconds", "model")},
                    kind="stat",
                    unit="s",
                    width=4,
                ),
                _panel("Served versions", {"": served}, kind="table", width=12),
            ],
        ),
        (
            "Calls",
            [
                _panel(
                    "Rate", {"{{model}} {{method}}": _rate("saccade_requests_total", "model, method")}, unit="reqps"
                ),
                _panel(
                    "Errors",
                    {"{{model}} {{code}}": _rate("saccade_requests_total", "model, code", f"{_IN}, {bad}")},
                    unit="reqps",
                ),
                _panel(
                    "Refusals by reason",
                    {"{{model}} {{reason}}": _rate("saccade_refused_total", "model, reason")},
                    unit="reqps",
                ),
            ],
        ),
        (
            "Time",
            [
                _panel(
                    "Whole call",
                    {
                        f"{{{{model}}}} p{round(100 * q)}": _quantile(q, "saccade_request_seconds", "model")
                        for q in (0.5, 0.9, 0.99)
                    },
                    unit="s",
                ),
                *(
                    _panel(
                        f"{name}, by stage",
                        {_STAGE: _quantile(q, "saccade_stage_seconds", "model, stage")},
                        unit="s",
                    )
                    for name, q in (("Median", 0.5), ("p99", 0.99))
                ),
            ],
        ),
        (
            "Batches",
            [
                _panel("Pictures a second", {"{{model}}": _rate("saccade_images_total", "model")}),
                _panel(
                    "Pictures a batch",
                    {
                        "{{model}} mean": _mean("saccade_batch_size", "model"),
                        "{{model}} p90": _quantile(0.9, "saccade_batch_size", "model"),
                    },
                ),
                _panel(
                    "Queue",
                    {
                        "{{instance}} {{model}} pictures": f"sum by (instance, model) (saccade_queue_depth{{{_IN}}})",
                        "{{instance}} queue seconds a second": f"saccade:queue_seconds:sum_rate1m{{{_JOB}}}",
                    },
                ),
            ],
        ),
        (
            "Answers",
            [
                _panel("Predictions by label", {"{{model}} {{label}}": _share(_RATE)}, unit="percentunit"),
                _panel(
                    "Confidence",
                    {
                        "{{model}} mean": _mean("saccade_confidence", "model"),
                        "{{model}} mean of a day": _mean("saccade_confidence", "model", "[1d]"),
                        "{{model}} p10": _quantile(0.1, "saccade_confidence", "model"),
                    },
                    unit="percentunit",
                ),
                _panel(
                    "Drift: share of predictions that moved to other labels, 30 minutes against a day",
                    {"{{model}}": f"sum by (model) (abs(({_share('[30m]')}) - ({_share('[1d]')}))) / 2"},
                    unit="percentunit",
                ),
            ],
        ),
        (
            "Health",
            [
                _panel(
                    "Models that are served, by replica",
                    {"{{instance}} {{model}}": f"saccade_model_ready{{{_IN}}}"},
                ),
                _panel(
                    "Self-tests that failed, answers that are not finite",
                    {
                        "{{instance}} {{model}} {{version}} not loaded": f"saccade_model_load_failures_total{{{_IN}}}",
                        "{{instance}} {{model}} {{version}} not finite": f"saccade_model_faults_total{{{_IN}}}",
                    },
                ),
                _panel(
                    "CPU and memory",
                    {
                        "{{instance}} cores": f"rate(process_cpu_seconds_total{{{_JOB}}}{_RATE})",
                        "{{instance}} GiB": f"process_resident_memory_bytes{{{_JOB}}} / 2^30",
                    },
                ),
            ],
        ),
    ]


def _panel(
    title: str, targets: Queries, *, kind: str = "timeseries", unit: str = "short", width: int = 8
) -> dict[str, Any]:
    table = kind == "table"
    return {
        "title": title,
        "type": kind,
        "datasource": _SOURCE,
        "gridPos": {"w": width, "h": 5 if kind in {"stat", "table"} else 8},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {},
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": _SOURCE,
                "expr": expr,
                "legendFormat": legend or "__auto",
                **({"format": "table", "instant": True} if table else {}),
            }
            for number, (legend, expr) in enumerate(targets.items())
        ],
        **(
            {"transformations": [{"id": "organize", "options": {"excludeByName": {"Time": True, "Value": True}}}]}
            if table
            else {}
        ),
    }


def _placed(rows: list[tuple[str, list[dict[str, Any]]]]) -> Iterator[dict[str, Any]]:
    """Yield the panels with their numbers and places on a grid 24 wide."""
    number = top = 0
    for title, panels in rows:
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "gridPos": {"x": 0, "y": top, "w": 24, "h": 1},
            "panels": [],
        }
        top, left = top + 1, 0
        for panel in panels:
            number += 1
            yield {"id": number, **panel, "gridPos": {**panel["gridPos"], "x": left, "y": top}}
            left += panel["gridPos"]["w"]
        top += panels[0]["gridPos"]["h"]


def _variables() -> list[dict[str, Any]]:
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    return [source, _variable("job", "saccade_model_ready"), _variable("model", f"saccade_model_ready{{{_JOB}}}")]


def _variable(label: str, series: str) -> dict[str, Any]:
    return {
        "name": label,
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": f"label_values({series}, {label})", "refId": label},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }
