"""Shows a tuning to people: a bar while it goes on, then the table and the command lines."""

import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from service.tune.command import Result, Task, best
from service.tune.search import LEAST_ROUNDS, Choice, Measured, Outcome
from service.tune.settings import GOALS, Goal, flags

UNSTEADY = 1.5
"""Rounds further apart than this say more of what else runs than of the setting."""
MORE = "raise --time-limit"


@contextmanager
def progress(limit: float, *, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Show on standard error what is being done and how much of the time is gone."""
    console = Console(stderr=True, quiet=quiet)
    columns = [BarColumn(20), TimeRemainingColumn(), TextColumn("{task.description}")]
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as shown:
        bar, started = shown.add_task("", total=limit), time.monotonic()

        def told(what: str) -> None:
            shown.update(bar, description=what, completed=time.monotonic() - started)

        yield told


def table(results: Sequence[Result]) -> Table:
    """Return every setting that was measured, the fastest of each version first."""
    found = Table(box=box.SIMPLE_HEAD, caption="bare sessions, every instance busy; ms: one picture alone")
    for name in ("version", "runs on", "instances", "threads", "batch", "images/s", "ms", ""):
        found.add_column(name, justify="right" if name in {"batch", "images/s", "ms"} else "left")
    for result in results:
        outcome = result.outcome
        for each in sorted(outcome.measured if outcome else [], key=_order):
            kind = each.setting.kind
            runs_on = f"{kind.provider} {kind.options}".strip() + f" {kind.precision}"
            shape = (str(each.setting.instances), str(each.setting.threads))
            if each.failed or outcome is None:
                found.add_row(str(result.version), runs_on, *shape, "", "", "", each.failed)
                continue
            numbers = (str(each.batch("throughput")), f"{each.score('throughput'):,.1f}", f"{1e3 * each.latency:.2f}")
            found.add_row(str(result.version), runs_on, *shape, *numbers, _marks(each, outcome))
    return found


def lines(task: Task, results: Sequence[Result], *, bundled: bool = False) -> list[str]:
    """Return what is best for each goal, as the command line of the server, and what was not measured."""
    said = []
    for goal in GOALS:
        result, choice = best(results, goal)
        said.append(f"{goal}: {command(task, choice, bundled=bundled)}")
        said.append(f"  {_why(result, choice, goal)}")
        highest = max(each.version for each in results if each.outcome)
        if result.version != highest:
            said.append(f"  this is version {result.version}: requests must name it, since version {highest} is higher")
    for result in results:
        said += [f"version {result.version}, left out: {reason}" for reason in result.left_out]
        if result.outcome and result.outcome.unseen:
            said.append(
                f"version {result.version}: there was no time for {result.outcome.unseen} settings; "
                f"raise --time-limit above {task.limit:g}"
            )
    return said


def command(task: Task, choice: Choice, *, bundled: bool = False) -> str:
    """Return the command line that serves a choice; the default needs no flags but those that it was measured with."""
    words = ["saccade serve", *([] if bundled else [f"--repository {shlex.quote(str(task.repository))}"])]
    return " ".join([*words, *([flags(choice.best.setting, choice.batch)] if choice.better else _asked(task, choice))])


def _asked(task: Task, choice: Choice) -> list[str]:
    """Return the flags of the server that stand for what was asked of the tuning."""
    wanted = task.wanted
    asked = ["--provider", wanted.provider] if wanted.provider != "auto" else []
    asked += ["--provider-options", wanted.provider_options] if wanted.provider_options else []
    asked += ["--max-batch-size", str(choice.batch)] if task.max_batch_size < task.default_batch else []
    asked += ["--allow-unverified"] if choice.best.setting.kind.unverified else []
    return [shlex.join(asked)] if asked else []


def to_json(task: Task, results: Sequence[Result], *, bundled: bool = False) -> dict[str, Any]:
    """Return everything for a program."""
    return {
        "model": task.model,
        "best": {
            goal: {"version": result.version, "gains": choice.gains, "command": command(task, choice, bundled=bundled)}
            for goal in GOALS
            for result, choice in [best(results, goal)]
        },
        "versions": [
            {
                "version": result.version,
                "left_out": list(result.left_out),
                "unseen": result.outcome.unseen if result.outcome else 0,
                "measured": [_row(each) for each in (result.outcome.measured if result.outcome else [])],
            }
            for result in results
        ],
    }


def _row(each: Measured) -> dict[str, Any]:
    kind = each.setting.kind
    return {
        "provider": kind.provider,
        "provider_options": kind.options,
        "precision": kind.precision,
        "instances": each.setting.instances,
        "intra_op_threads": each.setting.threads,
        "images_per_second": each.rates,
        "milliseconds": 1e3 * each.latency,
        "failed": each.failed,
    }


def _order(each: Measured) -> float:
    return 0.0 if each.failed else -each.score("throughput")


def _marks(each: Measured, outcome: Outcome) -> str:
    marks = ["default"] if each is outcome.default.best else []
    marks += [f"best {goal}" for goal in GOALS if outcome.choice(goal).best is each and outcome.choice(goal).better]
    return ", ".join(marks)


def _why(result: Result, choice: Choice, goal: Goal) -> str:
    assert result.outcome is not None  # noqa: S101 - it is the best
    tried = result.outcome.tried[goal]
    if not tried.gains:
        if tried.best is result.outcome.default.best:
            return "the default is best: it was the fastest that was measured"
        return tried.best.failed or f"the default is kept: no time to run it in turns with {tried.best.setting}; {MORE}"
    rounds = f"{min(tried.gains):.2f} to {max(tried.gains):.2f} times as good in {len(tried.gains)} rounds in turns"
    if choice.better:
        return f"{choice.gain:.2f} times as good as the default ({rounds})"
    what = f"{tried.best.setting}, batch {tried.batch}, was {rounds}"
    if len(tried.gains) < LEAST_ROUNDS:
        return f"the default is kept: {what}, too few to tell; {MORE}"
    busy = "; is the machine busy with other work?" if max(tried.gains) > UNSTEADY * min(tried.gains) else ""
    return f"the default is best: {what}, which is noise{busy}"
