"""What is asked of latency and errors, and whether it was met: `p99<50ms,errors<0.1%`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from service.errors import SetupError
from service.load.outcome import Outcome

_TERM = re.compile(
    r"(p\d{1,2}(?:\.\d+)?|max|mean|errors|refused|rate|goodput)\s*(<|>)\s*(\d+(?:\.\d+)?)\s*(us|ms|s|%|/s|)"
)
_MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1000.0}
_EXAMPLE = "for example p99<50ms,errors<0.1%"


@dataclass(frozen=True, slots=True)
class Term:
    """One bound.

    Attributes:
        what: a percentile such as p99, max, mean (milliseconds); errors or refused (per cent of calls); rate or
            goodput (answers a second).
        limit: in that unit.
    """

    what: str
    limit: float

    @property
    def at_least(self) -> bool:
        """Whether the limit is a lower one."""
        return self.what in {"rate", "goodput"}

    @property
    def unit(self) -> str:
        """Of the value and the limit."""
        return "/s" if self.at_least else "%" if self.what in {"errors", "refused"} else "ms"

    @property
    def percentile(self) -> float | None:
        """The percentile that is meant, 100 for max; None for anything else."""
        if self.what == "max":
            return 100.0
        return float(self.what[1:]) if re.fullmatch(r"p[\d.]+", self.what) else None

    def value(self, outcome: Outcome) -> float:
        """Return what came of it."""
        if self.percentile is not None:
            return outcome.milliseconds(self.percentile)
        return {
            "mean": outcome.mean_milliseconds,
            "errors": 100 * outcome.error_share,
            "refused": 100 * outcome.refused_share,
            "rate": outcome.rate,
            "goodput": outcome.goodput,
        }[self.what]

    def met(self, outcome: Outcome) -> bool:
        """Return whether it was met; nothing is where nothing was answered."""
        if not outcome.answered:
            return False
        value = self.value(outcome)
        return value > self.limit if self.at_least else value < self.limit

    def __str__(self) -> str:
        return f"{self.what}{'>' if self.at_least else '<'}{self.limit:g}{self.unit}"


def parse(text: str) -> tuple[Term, ...]:
    """Return the terms of an objective.

    Raises:
        SetupError: one cannot be read; the text says which and shows an example.
    """
    return tuple(_term(part.strip()) for part in text.split(","))


def _term(text: str) -> Term:
    found = _TERM.fullmatch(text)
    if found is None:
        raise SetupError(f"--slo: {text!r} is no objective; {_EXAMPLE}")
    what, relation, number, unit = found.groups()
    kind = "/s" if what in {"rate", "goodput"} else "%" if what in {"errors", "refused"} else "ms"
    if (relation == ">") != (kind == "/s"):
        raise SetupError(f"--slo: {text!r}: {what} is bounded by {'>' if kind == '/s' else '<'}; {_EXAMPLE}")
    if kind == "ms" and unit not in _MILLISECONDS:
        raise SetupError(f"--slo: {text!r}: say ms, s or us; {_EXAMPLE}")
    if (kind == "%" and unit != "%") or (kind == "/s" and unit not in {"", "/s"}):
        raise SetupError(f"--slo: {text!r}: {what} is in {kind}; {_EXAMPLE}")
    return Term(what, float(number) * _MILLISECONDS.get(unit, 1.0))


def verdict(terms: Sequence[Term], outcome: Outcome) -> str:
    """Return one line: what was met by how much, what was not."""
    parts = [f"{term} is {'met' if term.met(outcome) else 'missed'} ({_told(term, outcome)})" for term in terms]
    return f"objective {'met' if met(terms, outcome) else 'MISSED'}: " + ", ".join(parts)


def _told(term: Term, outcome: Outcome) -> str:
    if term.unit == "ms" and not outcome.answered:
        return "nothing was answered"
    return f"{term.value(outcome):.4g}{term.unit}"


def uncounted(terms: Sequence[Term], outcome: Outcome) -> str:
    """Return a line on calls that failed where latency alone has a bound, which they do not touch; else nothing."""
    failed = outcome.failed.total()
    if not failed or not any(term.unit == "ms" for term in terms) or any(term.what == "errors" for term in terms):
        return ""
    return f"{failed} of {outcome.calls} calls failed and are in no latency: add errors<0.1% to --slo to bound them"


def met(terms: Sequence[Term], outcome: Outcome) -> bool:
    """Return whether all terms are met."""
    return all(term.met(outcome) for term in terms)
