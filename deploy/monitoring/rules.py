"""The Prometheus rules: what is recorded, what is alerted on, and at which limits.

Every expression keeps `job`, so that several deployments share one Prometheus.
"""

from typing import Any

OBJECTIVE = 0.999
"""Share of calls that must not fail, over 30 days."""
P99_SECONDS = 0.5
"""Slowest p99 of a unary call."""
QUEUE_SECONDS = 0.25
"""Longest 95th percentile of the time that calls wait for a batch."""
REFUSED = 0.05
"""Largest share of calls that are refused for long."""

_FAILED = 'code=~"INTERNAL|UNKNOWN|DATA_LOSS|UNAVAILABLE|DEADLINE_EXCEEDED"'
"""Statuses that are the service's fault. A refusal (RESOURCE_EXHAUSTED) is not: it has alerts of its own."""
_UNARY = 'method=~"Classify|ModelInfer"'
_WINDOWS = ("5m", "30m", "1h", "6h", "3d")
# (long window, short window, times the budget's even spending, severity): the pairs of the SRE workbook, chapter 5.
_BURNS = (("1h", "5m", 14.4, "critical"), ("6h", "30m", 6.0, "critical"), ("3d", "6h", 1.0, "warning"))


def groups() -> list[dict[str, Any]]:
    """Return the rule groups as Prometheus reads them."""
    return [
        {"name": "saccade.recorded", "interval": "30s", "rules": _recorded()},
        {"name": "saccade.objective", "rules": [_burn(*burn) for burn in _BURNS]},
        {"name": "saccade.service", "rules": _service()},
        {"name": "saccade.models", "rules": _models()},
        {"name": "saccade.workers", "rules": _workers()},
    ]


def _recorded() -> list[dict[str, Any]]:
    errors = [
        {
            "record": f"saccade:request_errors:ratio_rate{window}",
            "expr": f"(sum by (job) (rate(saccade_requests_total{{{_FAILED}}}[{window}]))\n"
            f"  or 0 * sum by (job) (rate(saccade_requests_total[{window}])))\n"
            f"/ sum by (job) (rate(saccade_requests_total[{window}]))",
        }
        for window in _WINDOWS
    ]
    quantiles = [
        {
            "record": f"saccade:request_seconds:p{percent}_rate5m",
            "expr": f"histogram_quantile({percent / 100:g}, sum by (job, model, le)"
            f" (rate(saccade_request_seconds_bucket{{{_UNARY}}}[5m])))",
        }
        for percent in (50, 99)
    ]
    waiting = {
        "record": "saccade:queue_seconds:sum_rate1m",
        "expr": 'sum by (job, instance) (rate(saccade_stage_seconds_sum{stage="queue"}[1m]))',
    }
    return [*errors, *quantiles, waiting]


def _burn(long: str, short: str, factor: float, severity: str) -> dict[str, Any]:
    limit = f"{factor:g} * {1 - OBJECTIVE:.4g}"
    recorded = "saccade:request_errors:ratio_rate"
    return _alert(
        f"SaccadeErrorBudgetBurn{long}",
        f"{recorded}{long} > {limit}\nand {recorded}{short} > {limit}",
        severity,
        f"Calls fail at more than {factor:g} times the rate that {OBJECTIVE:.1%} allows",
        f"{{{{ $value | humanizePercentage }}}} of the calls of {{{{ $labels.job }}}} failed in the last {long}. "
        "The log has a line for each failed call; INTERNAL ones carry an id that the caller was given.",
    )


def _service() -> list[dict[str, Any]]:
    return [
        _alert(
            "SaccadeSlow",
            f"saccade:request_seconds:p99_rate5m > {P99_SECONDS}",
            "warning",
            f"1 call in 100 takes more than {P99_SECONDS} s",
            "p99 of {{ $labels.model }} is {{ $value | humanizeDuration }}. The dashboard's stages say where the time "
            "goes: decode (send raw pixels), queue (more replicas), inference (a smaller batch or precision).",
            wait="10m",
        ),
        _alert(
            "SaccadeQueueGrows",
            "histogram_quantile(0.95, sum by (job, model, le)"
            f' (rate(saccade_stage_seconds_bucket{{stage="queue"}}[5m]))) > {QUEUE_SECONDS}',
            "warning",
            f"Calls wait more than {QUEUE_SECONDS} s for a batch",
            "1 call of {{ $labels.model }} in 20 waits {{ $value | humanizeDuration }}: more arrive than are answered. "
            "Is the autoscaler at its largest size?",
            wait="10m",
        ),
        _alert(
            "SaccadeRefuses",
            "sum by (job, model, reason) (rate(saccade_refused_total[5m]))\n"
            f"/ on (job) group_left sum by (job) (rate(saccade_requests_total[5m])) > {REFUSED}",
            "warning",
            f"More than {REFUSED:.0%} of the calls are refused",
            "{{ $value | humanizePercentage }} of the calls are refused: {{ $labels.reason }} ({{ $labels.model }}).",
            wait="10m",
        ),
    ]


def _models() -> list[dict[str, Any]]:
    failures = "saccade_model_load_failures_total"
    return [
        _alert(
            "SaccadeNoReadyModel",
            "sum by (job, model) (saccade_model_ready) == 0\n"
            # A job that is wholly gone has no series to be 0; for a day it is known that it was there.
            "or (group by (job) (last_over_time(saccade_model_ready[1d]))"
            " unless group by (job) (saccade_model_ready))\n"
            "or absent(last_over_time(saccade_model_ready[1d]))",
            "critical",
            "No replica serves the model",
            "No replica serves {{ if $labels.model }}{{ $labels.model }}{{ else }}any model{{ end }}. "
            "`saccade models` says why.",
            wait="2m",
        ),
        _alert(
            "SaccadeModelNotReady",
            "saccade_model_ready == 0",
            "warning",
            "A replica does not serve a model that others may serve",
            "{{ $labels.instance }} does not serve {{ $labels.model }}. `saccade models` says why.",
            wait="10m",
        ),
        _alert(
            "SaccadeSelfTestFailed",
            # A counter appears with its first failure at 1, which `increase` does not see.
            f"increase({failures}[15m]) > 0\nor ({failures} > 0 unless {failures} offset 15m)",
            "warning",
            "A version could not be loaded or failed its self-test",
            "{{ $labels.instance }} could not load {{ $labels.model }} version {{ $labels.version }}; the version "
            "before it is still served. `saccade models` says why.",
        ),
        _alert(
            "SaccadeModelFaults",
            "increase(saccade_model_faults_total[15m]) > 0",
            "warning",
            "A model gives values that are not finite",
            "{{ $labels.model }} version {{ $labels.version }} gave NaN or infinite values.",
        ),
    ]


def _workers() -> list[dict[str, Any]]:
    """Of servers with `--workers`; the others have no such metrics."""
    return [
        _alert(
            "SaccadeWorkerEnded",
            "increase(saccade_worker_restarts_total[15m]) > 0",
            "warning",
            "A worker ended unasked and was replaced",
            "{{ $value | humanize }} workers of {{ $labels.instance }} ended within 15m: killed for memory, or a crash "
            "of the runtime. A line `worker ended` of the log says how.",
        ),
        _alert(
            "SaccadeWorkersMissing",
            "saccade_workers < max_over_time(saccade_workers[1h])",
            "warning",
            "A replica takes calls with fewer workers than it had",
            "{{ $value | humanize }} workers of {{ $labels.instance }} take calls, fewer than an hour ago: the others "
            "do not get ready again. The log says why.",
            wait="5m",
        ),
    ]


def _alert(name: str, expr: str, severity: str, summary: str, text: str, *, wait: str = "") -> dict[str, Any]:
    return {
        "alert": name,
        "expr": expr,
        **({"for": wait} if wait else {}),
        "labels": {"severity": severity},
        "annotations": {"summary": summary, "description": text},
    }
