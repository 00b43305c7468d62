"""The highest rate that meets an objective: doubling, then bisection, then confirmation."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from service.load.outcome import Outcome
from service.load.plan import Load

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


def kept_up(outcome: Outcome, load: Load) -> bool:
    """Return whether a rate was answered about as fast as it came.

    What takes seconds, however idle the server, is not answered within the window where it was due in the last seconds
    of it; so much of that as the warm-up did not bring from before the window is allowed for. So is one standard
    deviation of how many are under way at either end.
    """
    if not outcome.calls:
        return True
    offered, rounds = outcome.calls / outcome.seconds, max(1.0, outcome.seconds / load.seconds)
    shortest = (outcome.shortest or 0) / 1e6  # of all calls a queue delays it the least: the first ones found none
    under_way = 1 + offered * max(0.0, shortest - load.warm_up) + math.sqrt(2 * offered * shortest)
    return outcome.arrived + rounds * under_way >= KEPT_UP * outcome.calls


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
