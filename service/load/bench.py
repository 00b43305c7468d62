"""One bench: prepares the messages, puts one load after the other on the target, looks at its metrics, keeps rows."""

import datetime
import os
import platform
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count

from service.connection import Connection
from service.errors import SaccadeError, SetupError
from service.load import scrape, targets
from service.load.objective import Term
from service.load.outcome import Outcome
from service.load.plan import Arrivals, Load
from service.load.processes import Loaders, Watch
from service.load.report import Report, Row, story
from service.load.search import find_max, kept_up
from service.load.targets import Ask

METRICS_PORT = 8002
ROUNDS, MOST_ROUNDS = 3, 10
"""A load that must be stable is measured until so many rounds in a row agree, or so often at most."""
_GONE = "UNAVAILABLE"
"""Status of every call to a server that is gone; lower rates would find it gone too, twenty times over."""
_PROBE_CALLERS, _PROBE_SECONDS = 16, 1.5


@dataclass(frozen=True, slots=True)
class Options:
    """What a bench is to do.

    Attributes:
        protocol, connection: the target.
        ask: what every message asks.
        concurrency: closed loops, one row each.
        rates: open loops, one row each.
        deadline: seconds, from when a call is due; None for none.
        stable: largest relative spread of the last rounds; None measures one round.
        metrics_url: the server's metrics; empty for the usual place, None for no look.
        most: highest rate that a search tries; None for no search.
    """

    protocol: targets.Protocol
    connection: Connection
    ask: Ask
    concurrency: tuple[int, ...] = ()
    rates: tuple[float, ...] = ()
    arrivals: Arrivals = "poisson"
    seconds: float = 10.0
    warm_up: float = 1.0
    deadline: float | None = None
    processes: int = 1
    channels: int = 0
    stable: float | None = None
    metrics_url: str | None = ""
    objective: tuple[Term, ...] = ()
    most: float | None = None

    @property
    def address(self) -> str:
        """Of the target."""
        return self.connection.addresses[0]


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who watches: told of each load that begins, what comes in, each row, and each remark."""

    begins: Callable[[str, float], Watch | None]
    row: Callable[[Row], None]
    note: Callable[[str], None]


class _Ended(Exception):
    """There is no more to measure: the user has seen enough, the server is gone, or a process of the load is."""


def run(options: Options, viewer: Viewer) -> Report:
    """Run a bench to its end, to Ctrl-C, or until a process of the load dies: its report keeps the rows before that.

    Raises:
        SaccadeError: the target is not there, has no such model, or there is no row to keep.
    """
    prepared = targets.prepare(options.protocol, options.connection, options.ask)
    facts = {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "client": f"{platform.node()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "deadline_ms": options.deadline and options.deadline * 1000,
        "images_per_call": options.ask.images,
        "stream": options.ask.stream,
        "processes": options.processes,
        "seed": options.ask.seed,
    }
    target = f"{options.protocol}://{options.address}"
    report = Report(target, prepared.model, prepared.content, facts=facts)
    first = Load(
        options.address,
        prepared.method,
        prepared.requests,
        1,
        options.seconds,
        options.warm_up,
        options.deadline,
        kind=prepared.kind,
        framing=prepared.framing,
        arrivals=options.arrivals,
        seed=options.ask.seed,
        images=options.ask.images,
        channels=options.channels,
        connection=options.connection,
    )
    with Loaders(options.processes) as loaders, suppress(_Ended, KeyboardInterrupt):
        runner = _Runner(options, viewer, loaders, report)
        for concurrency in options.concurrency:
            runner.measure(replace(first, concurrency=concurrency))
        for rate in options.rates:
            runner.measure(replace(first, rate=rate))
        if options.most is not None:
            runner.search(first, options.most)
    return report


class _Runner:
    def __init__(self, options: Options, viewer: Viewer, loaders: Loaders, report: Report) -> None:
        self._options, self._viewer, self._loaders, self._report = options, viewer, loaders, report
        self._metrics_url, self._seen, self._told = options.metrics_url, False, False
        if self._metrics_url == "":
            scheme = "https" if options.connection.secure else "http"
            usual = f"{scheme}://{options.address.rpartition(':')[0]}:{METRICS_PORT}/metrics"
            self._metrics_url = usual if options.protocol == "saccade" else None

    def measure(self, load: Load, *, searching: bool = False) -> Row:
        """Measure one row; in a search it must be answered as fast as it comes, too."""
        before = self._look()
        outcome, spread = self._rounds(load)
        if outcome.interrupted and not outcome.calls:  # in the warm-up: no row, which would miss every objective
            raise _Ended
        ended = outcome.interrupted
        try:
            after = self._look()
        except KeyboardInterrupt:  # while a server that hangs was looked at: the row is whole without that view
            after, ended = None, True
        server = scrape.between(before, after) if before is not None and after is not None else None
        behind = searching and not kept_up(outcome, load)
        row = Row(load, outcome, server, self._options.objective, spread, behind)
        self._report.rows.append(row)
        self._viewer.row(row)
        if ended:
            raise _Ended
        return row

    def search(self, first: Load, most: float) -> None:
        """Search the highest rate that meets the objective."""
        start = self._options.rates[-1] if self._options.rates else self._guess(first)
        limits, trials = dict[float, str](), count(1)

        def attempt(rate: float) -> bool:
            # Random moments of its own: a lucky pattern that comes again would be confirmed, not tried.
            seed = first.seed + MOST_ROUNDS * next(trials)
            row = self.measure(replace(first, rate=_rounded(rate), seed=seed), searching=True)
            if not row.outcome.answered and set(row.outcome.failed) == {_GONE}:
                self._viewer.note(f"the search ended: at {row.name} the server was gone")
                raise _Ended
            limits[rate] = row.client_limits
            return bool(row.met)

        found = find_max(attempt, start=start, most=most)
        self._report.found = _rounded(found.rate)
        if found.rate and found.missed is None:
            self._viewer.note(f"no rate missed the objective: {most:g} calls/s is the most that was tried (--max-rate)")
        if found.missed is not None and limits[found.missed]:
            self._report.limited = f"{_rounded(found.missed):g}/s: {limits[found.missed]}"
            self._viewer.note(f"the client may have set this limit, not the server: {self._report.limited}")

    def _guess(self, first: Load) -> float:
        """Return half of what a short closed loop gets."""
        load = replace(first, concurrency=_PROBE_CALLERS, seconds=_PROBE_SECONDS, warm_up=0.5)
        outcome = self._run("how fast it goes with 16 at once", load)
        if outcome.interrupted:
            raise _Ended
        if not outcome.answered:
            why = "; ".join(story(outcome)) or "no call was answered"
            if not self._report.rows:
                raise SetupError(why)
            self._viewer.note(f"nothing was searched: {why}")
            raise _Ended
        return max(1.0, outcome.rate / 2)

    def _rounds(self, load: Load) -> tuple[Outcome, float | None]:
        """Measure once, or until the last rounds agree; then those are the outcome."""
        outcome, name = self._run(Row(load, Outcome()).name, load), Row(load, Outcome()).name
        limit = self._options.stable
        if limit is None:
            return outcome, None
        rounds, openly = [outcome], load.rate is not None
        while not rounds[-1].interrupted and (len(rounds) < ROUNDS or spread(rounds[-ROUNDS:], openly=openly) > limit):
            if len(rounds) == MOST_ROUNDS:
                break
            again = replace(load, seed=load.seed + len(rounds))
            rounds.append(self._run(f"{name}, round {len(rounds) + 1}", again))
        last = rounds[-ROUNDS:]
        found = spread(last, openly=openly)
        if found > limit:
            self._viewer.note(f"{name}: not stable after {len(rounds)} rounds: they differ by {found:.1%}")
        joined = Outcome()
        for part in last:
            joined.follow(part)
        return joined, found

    def _run(self, name: str, load: Load) -> Outcome:
        try:
            return self._loaders.run(load, self._viewer.begins(name, load.warm_up + load.seconds))
        except SaccadeError as error:
            if not self._report.rows:
                raise
            self._report.broken = f"{name}: {error}"
            raise _Ended from None

    def _look(self) -> scrape.Samples | None:
        """Look at the server's metrics; where there are none say so once, where there were some go on looking."""
        if not self._metrics_url:
            return None
        try:
            samples = scrape.look(self._metrics_url, scrape.context(self._options.connection))
        except OSError as error:
            if not self._told:
                self._viewer.note(f"no view of the server: {self._metrics_url}: {error} (--metrics-url says where)")
            self._told = True
            if not self._seen:  # a host that does not answer would cost seconds a look
                self._metrics_url = None
            return None
        self._seen = True
        return samples


def _rounded(rate: float) -> float:
    """Return a rate in four digits: more are noise."""
    return float(f"{rate:.4g}")


def spread(rounds: list[Outcome], *, openly: bool = False) -> float:
    """Return how far rounds differ, of their mean: in answers or in the 90 % latency, whichever is more.

    Args:
        rounds: of one load.
        openly: whether it is an open loop. Below the server's limit its answers a second vary as its arrivals do,
            beyond it the share of calls that is answered does; a server that is not stable moves both.
    """
    answers = _spread([each.rate for each in rounds])
    if openly:
        answers = min(answers, _spread([each.arrived / max(each.calls, 1) for each in rounds]))
    return max(answers, _spread([each.milliseconds(90) for each in rounds]))


def _spread(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return (max(values) - min(values)) / mean if mean else 0.0
