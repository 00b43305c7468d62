"""Compares a bench with an earlier one: figures by ratios, and what else they do not have in common."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from service.errors import SetupError
from service.load.report import Report, Row

_FACTS = {
    "model": "model",
    "content": "content",
    "images_per_call": "images a call",
    "deadline_ms": "deadline in ms",
    "stream": "streams",
}


def read(path: Path) -> dict[str, Any]:
    """Return a report that --json wrote.

    Raises:
        SetupError: it is not one, or lacks what is compared.
    """
    try:
        found = json.loads(path.read_text())
        rows = {row["load"]: _figures(row) for row in found["rows"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else error
        raise SetupError(f"{path} is no report of `saccade bench --json`: {why}") from None
    if not rows:
        raise SetupError(f"{path} has no rows")
    return dict(found)


def _figures(entry: dict[str, Any]) -> dict[str, float | None]:
    """Return what is compared of a row's JSON."""
    figures = {"throughput": entry["throughput"], **entry["latency_ms"]}
    for name, value in figures.items():
        if value is not None and not isinstance(value, int | float):
            raise TypeError(f"{name} of {entry['load']} is no number")
    return figures


def ratios(old: dict[str, Any], rows: Sequence[Row]) -> list[tuple[str, dict[str, float]]]:
    """Return for each load that both have: this report's figures by the old one's, where both have them."""
    before = {entry["load"]: _figures(entry) for entry in old["rows"]}
    found = []
    for row in rows:
        then = before.get(row.name)
        if then is not None:
            pairs = {name: (value, then.get(name)) for name, value in _figures(row.to_json()).items()}
            found.append(
                (row.name, {name: now / past for name, (now, past) in pairs.items() if past and now is not None})
            )
    return found


def differences(old: dict[str, Any], report: Report) -> list[str]:
    """Return in words what the reports differ in beside their figures; what the old one does not tell is left out."""
    now = {"model": report.model, "content": report.content, **report.facts}
    facts = [(name, old[fact], now[fact]) for fact, name in _FACTS.items() if fact in old and fact in now]
    before = {entry["load"]: entry.get("arrivals") for entry in old["rows"]}
    for row in report.rows:
        then = before.get(row.name)
        if then is not None and row.load.rate is not None:
            facts.append(("arrivals", then, row.load.arrivals))
    lines = [f"{name}: {_said(past)} then, {_said(today)} now" for name, past, today in facts if past != today]
    return list(dict.fromkeys(lines))


def _said(value: Any) -> str:  # noqa: ANN401 - of a JSON
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
