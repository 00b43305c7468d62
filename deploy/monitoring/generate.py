"""Writes the Prometheus rules, the Kubernetes PrometheusRule and the Grafana dashboard.

python deploy/monitoring/generate.py           writes them
python deploy/monitoring/generate.py --check   fails where they are not current, or where a file under deploy/ names a
                                               metric or a label that service/metrics.py does not declare

A renamed metric would otherwise leave an alert that can never fire and a panel that stays empty.
"""

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from dashboard import dashboard, queries
from rules import groups

from service.metrics import Merged, Metrics

HERE = Path(__file__).parent
DEPLOY = HERE.parent
KUBERNETES = DEPLOY / "kubernetes/components/monitoring"
TEXTS = (".py", ".yaml", ".yml", ".json", ".md", ".sh")
NOTICE = "# Made by `make monitoring` from deploy/monitoring/rules.py and service/metrics.py; do not edit.\n"
TARGET_LABELS = {"job", "instance", "pod", "namespace", "le"}
"""Labels that Prometheus adds itself."""
MADE = {"saccade_queue_seconds"}
"""Names that prometheus-adapter gives."""
PREFIX = "saccade_"
_NAME = re.compile(r"(?<![\w/.-])saccade_[a-z_]+\b(?![/.(-])")
_SELECTOR = re.compile(r"(?<![\w:])(saccade_[a-z_]+)\{([^}]*)\}")
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"")
_BY = re.compile(r"\bby \(([^)]*)\)")


def declared() -> dict[str, set[str]]:
    """Return the labels of every series that service/metrics.py declares, by the name that a query uses."""
    found: dict[str, set[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        merged = Merged(Path(folder), flush=lambda: None, processes=list, listening=lambda: 0)
        # The library tells the labels of a metric without samples only here.
        for collector in [*Metrics().registry._collector_to_names, *merged.registry._collector_to_names]:
            for family in collector.describe() if hasattr(collector, "describe") else ():
                labels = set(getattr(collector, "_labelnames", ()))
                suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
                found |= {f"{family.name}{suffix}": labels for suffix in suffixes}
    return {name: labels for name, labels in found.items() if name.startswith(PREFIX)}


def generated() -> dict[Path, str]:
    """Return the text of every file that is made here."""
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "saccade"},
        "spec": {"groups": groups()},
    }
    return {
        HERE / "rules.yaml": NOTICE + _yaml({"groups": groups()}),
        KUBERNETES / "prometheusrule.yaml": NOTICE + _yaml(rule),
        HERE / "dashboard.json": json.dumps(dashboard(), indent=2) + "\n",
    }


def faults() -> Iterator[str]:
    """Yield what is wrong: files that are not current, names and labels that are not declared, metrics not shown."""
    series = declared()
    families = {re.sub("_(bucket|sum|count)$", "", name) for name in series}
    for path, text in generated().items():
        if not path.exists() or path.read_text() != text:
            yield f"{path.relative_to(DEPLOY)} is not current; run `make monitoring`"
    for path in sorted(DEPLOY.rglob("*")):
        if path.suffix in TEXTS and path.is_file():
            for name in sorted(set(_NAME.findall(path.read_text())) - set(series) - families - MADE):
                yield f"{path.relative_to(DEPLOY)} names {name}, which service/metrics.py does not declare"
    expressions = [expr for _, expr in queries(dashboard())]
    expressions += [rule["expr"] for group in groups() for rule in group["rules"]]
    for expression in expressions:
        yield from (f"{name} is no series: {expression}" for name in _NAME.findall(expression) if name not in series)
        yield from _undeclared_labels(expression, series)
    shown = {name for _, expr in queries(dashboard()) for name in _NAME.findall(expr)}
    recorded = {name for group in groups() for rule in group["rules"] for name in _NAME.findall(rule["expr"])}
    for family in sorted(families):
        if not any(name.startswith(family) for name in shown | recorded):
            yield f"{family} is on no panel and in no rule; add it to deploy/monitoring/dashboard.py"


def _undeclared_labels(expression: str, series: dict[str, set[str]]) -> Iterator[str]:
    named = [name for name in _NAME.findall(expression) if name in series]
    known = set().union(TARGET_LABELS, *(series[name] for name in named))
    for name, matchers in _SELECTOR.findall(expression):
        for label in sorted(set(_MATCHER.findall(matchers)) - TARGET_LABELS - series.get(name, set())):
            yield f"{name} has no label {label}: {expression}"
    for labels in _BY.findall(expression):
        for label in sorted({label.strip() for label in labels.split(",")} - known):
            yield f"no metric of this query has a label {label}: {expression}"


def _yaml(value: Any) -> str:  # noqa: ANN401 - whatever YAML can say
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, and never an alias."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ANN401, ARG002
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def main() -> int:
    """Write the files, or check them; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where something is wrong")
    if not parser.parse_args().check:
        for path, text in generated().items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    found = list(faults())
    for fault in found:
        sys.stderr.write(f"{fault}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
