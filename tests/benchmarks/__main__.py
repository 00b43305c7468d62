"""`make bench`: one table of what serving costs, every figure beside its ceiling in the same run.

No assertions: ratios travel from machine to machine, times do not. What the ceilings are is in
tests/benchmarks/README.md.

python -m tests.benchmarks                              all rows
python -m tests.benchmarks --rows stream 'resnet50, raw'   those whose names hold one of these words
python -m tests.benchmarks --list                       their names, and what they take
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from tests.benchmarks import endurance, heavy, lenet, overload, precision, providers, start, top_k
from tests.benchmarks.table import Group, Line, Plan, table

GROUPS: Sequence[Group] = [
    *lenet.GROUPS,
    *heavy.GROUPS,
    *overload.GROUPS,
    *top_k.GROUPS,
    *start.GROUPS,
    *endurance.GROUPS,
    *providers.GROUPS,
    *precision.GROUPS,
]
WIDTH = 180
FAILED = "FAILED"


def parser() -> argparse.ArgumentParser:
    """Return what reads the command's arguments."""
    made = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    plan = Plan()
    made.add_argument("--rows", nargs="+", default=[""], metavar="WORDS", help="rows whose names hold one of these")
    made.add_argument("--list", action="store_true", help="print the rows and end")
    made.add_argument("--seconds", type=float, default=plan.seconds, help=f"a row and round ({plan.seconds:g})")
    made.add_argument("--rounds", type=int, default=plan.rounds, help=f"how often each row is measured ({plan.rounds})")
    made.add_argument("--calls", type=int, default=plan.calls, help=f"of the row on memory ({plan.calls:,})")
    made.add_argument(
        "--models",
        type=Path,
        help="where files of providers and precisions are kept; without torch, as another run left it",
    )
    return made


def chosen(words: Sequence[str]) -> list[tuple[Group, list[str]]]:
    """Return the groups and in each the names of its rows that hold one of the words."""
    pairs = [
        (group, [name for name in group.names if any(word.casefold() in name.casefold() for word in words)])
        for group in GROUPS
    ]
    return [(group, names) for group, names in pairs if names]


def measure(groups: Sequence[tuple[Group, list[str]]], plan: Plan) -> list[Line]:
    """Measure all of it, with progress on standard error; where a group fails a line says why."""
    lines: list[Line] = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=sum(group.seconds(plan) * len(names) for group, names in groups))
        for group, names in groups:
            progress.update(task, description=names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more")
            try:
                lines += group.measure(names, plan, partial(_advance, progress, task, group.seconds(plan)))
            except Exception as error:  # noqa: BLE001 - the other rows are worth having
                lines.append(Line(f"{FAILED} {names[0]}: {type(error).__name__}: {error}", []))
    return lines


def _advance(progress: Progress, task: TaskID, seconds: float, rows: float) -> None:
    progress.advance(task, rows * seconds)


def main() -> None:
    """Print the table."""
    given = parser().parse_args()
    plan = Plan(given.seconds, given.rounds, given.calls, given.models)
    groups = chosen(given.rows)
    total = sum(group.seconds(plan) * len(names) for group, names in groups)
    rows = sum(len(names) for _, names in groups)
    if given.list or not rows:
        for group, names in groups or chosen([""]):
            for name in names:
                sys.stdout.write(f"{name}: {group.seconds(plan):.0f} s\n")
    sys.stderr.write(f"{rows} rows, about {total / 60:.0f} min\n")
    if not rows:
        sys.exit(f"no row holds one of {given.rows}")
    if not given.list:
        lines = measure(groups, plan)
        Console(width=WIDTH).print(table(lines))
        sys.exit(any(line.name.startswith(FAILED) for line in lines))


if __name__ == "__main__":
    main()
