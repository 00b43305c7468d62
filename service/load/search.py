"""The highest rate that meets an objective: doubling, then bisection, then confirmation."""

from collections.abc import Callable
from dataclasses import dataclass

KEPT_UP = 0.97
"""Share of the offered calls that must be answered as they come: a queue without end meets any bound on errors."""
_MOST_TRIALS = 40

Try = Callable[[float], bool]
"""Offers a rate and says whether the objective was met."""


@dataclass(frozen=True, slots=True)
class Found:
    """Where the search ended.

    Attributes:
        rate: highest that met the objective, and did so again; 0 if none did.
        missed: lowest that did not; None if none was found below `most`.
        trials: how many loads were sent.
    """

    rate: float
    missed: float | None
    trials: int


def find_max(attempt: Try, *, start: float, most: float, tolerance: float = 0.02, confirmations: int = 1) -> Found:
    """Search the highest rate that meets the objective.

    Args:
        attempt: offers a rate; noise is met by confirmation, not by trusting one trial.
        start: first rate.
        most: highest rate that is tried.
        tolerance: relative width of the bracket in which the search ends.
        confirmations: how often the found rate must meet the objective again; where it does not, the search goes on
            below it.
    """
    trials = 0

    def meets(rate: float) -> bool:
        nonlocal trials
        trials += 1
        return attempt(rate)

    low, high, rate = 0.0, None, min(start, most)
    while trials < _MOST_TRIALS:
        if high is None and low >= most:
            return Found(low, None, trials)
        if high is not None and (high - low <= tolerance * high or high < 1e-3):
            if low == 0.0 or all(meets(low) for _ in range(confirmations)):
                return Found(low, high, trials)
            high, low = low, low * (1 - 4 * tolerance)  # believed, then not: look a little lower
            if not meets(low):
                high, low = low, 0.0
            continue
        if meets(rate):
            low = rate
        else:
            high = rate
        rate = min(2 * low, most) if high is None else (low + high) / 2 if low else high / 2
    return Found(low, high, trials)
