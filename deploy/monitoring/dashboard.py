"""The Grafana dashboard: every panel and its queries."""

from collections.abc import Iterator
from typing import Any

from panels import JOB, Panel, panel, placed, variables
from rules import OBJECTIVE, P99_SECONDS

_IN = f'{JOB}, model=~"$model"'
_STAGE = "{{model}} {{stage}}"
_RATE = "[$__rate_interval]"


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
        "templating": {"list": variables()},
        "panels": list(placed(_rows())),
    }


def queries(board: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each panel's title and one of its queries."""
    for each in board["panels"]:
        for target in each.get("targets", []):
            yield each["title"], target["expr"]


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


def _rows() -> list[tuple[str, list[Panel]]]:
    bad = 'code!~"OK|CANCELLED"'
    served = f"max by (model, version, provider, precision, verified, sha256) (saccade_model_info{{{_IN}}} == 1)"
    return [
        (
            "Now",
            [
                panel(
                    "Calls a second", {"": f"sum(rate(saccade_requests_total{{{_IN}}}{_RATE}))"}, kind="stat", width=4
                ),
                panel(
                    "Calls that fail, 5 minutes",
                    {"": f"max(saccade:request_errors:ratio_rate5m{{{JOB}}})"},
                    kind="stat",
                    unit="percentunit",
                    width=4,
                    most=round(1 - OBJECTIVE, 9),
                ),
                panel(
                    "p99",
                    {"{{model}}": _quantile(0.99, "saccade_request_seconds", "model")},
                    kind="stat",
                    unit="s",
                    width=4,
                    most=P99_SECONDS,
                ),
                panel("Served versions", {"": served}, kind="table", width=12),
            ],
        ),
        (
            "Calls",
            [
                panel("Rate", {"{{model}} {{method}}": _rate("saccade_requests_total", "model, method")}, unit="reqps"),
                panel(
                    "Errors",
                    {"{{model}} {{code}}": _rate("saccade_requests_total", "model, code", f"{_IN}, {bad}")},
                    unit="reqps",
                ),
                panel(
                    "Refusals by reason",
                    {"{{model}} {{reason}}": _rate("saccade_refused_total", "model, reason")},
                    unit="reqps",
                ),
            ],
        ),
        (
            "Time",
            [
                panel(
                    "Whole call",
                    {
                        f"{{{{model}}}} p{round(100 * q)}": _quantile(q, "saccade_request_seconds", "model")
                        for q in (0.5, 0.9, 0.99)
                    },
                    unit="s",
                ),
                *(
                    panel(
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
                panel("Pictures a second", {"{{model}}": _rate("saccade_images_total", "model")}),
                panel(
                    "Pictures a batch",
                    {
                        "{{model}} mean": _mean("saccade_batch_size", "model"),
                        "{{model}} p90": _quantile(0.9, "saccade_batch_size", "model"),
                    },
                ),
                panel(
                    "Queue",
                    {
                        "{{instance}} {{model}} pictures": f"sum by (instance, model) (saccade_queue_depth{{{_IN}}})",
                        "{{instance}} queue seconds a second": f"saccade:queue_seconds:sum_rate1m{{{JOB}}}",
                    },
                ),
            ],
        ),
        (
            "Answers",
            [
                panel("Predictions by label", {"{{model}} {{label}}": _share(_RATE)}, unit="percentunit"),
                panel(
                    "Confidence",
                    {
                        "{{model}} mean": _mean("saccade_confidence", "model"),
                        "{{model}} mean of a day": _mean("saccade_confidence", "model", "[1d]"),
                        "{{model}} p10": _quantile(0.1, "saccade_confidence", "model"),
                    },
                    unit="percentunit",
                ),
                panel(
                    "Drift: share of predictions that moved to other labels, 30 minutes against a day",
                    {"{{model}}": f"sum by (model) (abs(({_share('[30m]')}) - ({_share('[1d]')}))) / 2"},
                    unit="percentunit",
                ),
            ],
        ),
        ("Health", _health()),
    ]


def _health() -> list[Panel]:
    return [
        panel(
            "Models that are served, by replica", {"{{instance}} {{model}}": f"saccade_model_ready{{{_IN}}}"}, width=6
        ),
        panel(
            "Versions that failed, answers that are not finite",
            {
                "{{instance}} {{model}} {{version}} not loaded": f"saccade_model_load_failures_total{{{_IN}}}",
                "{{instance}} {{model}} {{version}} not finite": f"saccade_model_faults_total{{{_IN}}}",
            },
            width=6,
        ),
        panel(
            "Workers that take calls, and were replaced",
            {
                "{{instance}} take calls": f"saccade_workers{{{JOB}}}",
                "{{instance}} replaced": f"saccade_worker_restarts_total{{{JOB}}}",
            },
            width=6,
            about="Of servers with --workers; empty without.",
        ),
        panel(
            "CPU and memory",
            {
                "{{instance}} cores": f"rate(process_cpu_seconds_total{{{JOB}}}{_RATE})",
                "{{instance}} memory": f"process_resident_memory_bytes{{{JOB}}}",
            },
            width=6,
            right="bytes",
        ),
    ]
