"""The highest rate that meets an objective: doubling, then bisection, then confirmation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from service.load.objective import Term, met
from service.load.outcome import Outcome

KEPT_UP = 0.97
"""Share of the offered calls that must be answered as they come: a queue without end meets any bound on errors."""
_MOST_TRIALS = 40
_LEAST = 1e-3
"""Calls a second below which no search goes."""

Try = Callable[[float], bool]
"""Offers a rate and says whether the objective was met."""


@dataclass(frozen=True, slots=True)
class Found:
    """Where the search ended.

    Attributes:
        rate: highest that met the objective, and did so again; 0 if none did.
        missed: lowest that did not, twice; None if none was found below `most`.
        trials: how many loads were sent.
    """

    rate: float
    missed: float | None
    trials: int


def kept_up(objective: Sequence[Term], outcome: Outcome) -> bool:
    """Return whether a rate met the objective, and was answered about as fast as it came."""
    offered = outcome.calls / outcome.seconds if outcome.seconds else 0.0
    return met(objective, outcome) and outcome.rate >= KEPT_UP * offered


def find_max(attempt: Try, *, start: float, most: float, tolerance: float = 0.02) -> Found:
    """Search the highest rate that meets the objective.

    A trial may be lucky or unlucky, so both ends of the bracket in which the search ends are tried again; one that does
    not hold moves, and the search goes on.

    Args:
        attempt: offers a rate.
        start: first rate.
        most: highest rate that is tried.
        tolerance: relative width of that bracket.
    """
    trials = 0
    low, missed, settled = 0.0, list[float](), set[float]()

    def meets(rate: float) -> bool:
        nonlocal trials
        trials += 1
        return attempt(rate)

    while trials < _MOST_TRIALS:
        high = missed[-1] if missed else None
        if low < most if high is None else high - low > tolerance * high and high > _LEAST:
            rate = min(2 * low or start, most) if high is None else (low + high) / 2
            if meets(rate):
                low = rate
            else:
                missed.append(rate)
        elif high is not None and high not in settled:
            settled.add(high)
            if meets(high):  # missed, then not: what missed above it bounds the search again
                low = missed.pop()
        elif low == 0.0 or meets(low):
            return Found(low, high, trials)
        else:  # believed, then not: look a little lower
            missed.append(low)
            settled.add(low)
            low *= 1 - 4 * tolerance
            if not meets(low):
                missed.append(low)
                low = 0.0
    return Found(low, missed[-1] if missed else None, trials)
