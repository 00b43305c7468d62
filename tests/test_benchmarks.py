"""The command of `make bench`: rows are chosen by name, and every figure stands beside its ceiling."""

import subprocess
import sys
from collections.abc import Iterator, Sequence

import pytest

from service.load.outcome import Outcome
from tests.benchmarks.__main__ import GROUPS, chosen, measure
from tests.benchmarks.profile import function, libraries
from tests.benchmarks.table import Compared, Group, Line, Plan, Step
from tests.processes import ROOT

NAMES = [name for group in GROUPS for name in group.names]
ISSUE = (
    *(f"LeNet-5, one picture, {count} at once" for count in (1, 8, 32, 128)),
    "LeNet-5, stream, 64 at once",
    "LeNet-5, 32 pictures a call, 8 at once",
    *(
        f"{name}, {kind}, {c} at once"
        for name in ("resnet18", "resnet50")
        for kind in ("raw pixels", "JPEG")
        for c in (1, 8, 32)
    ),
)


def test_rows_have_names_of_their_own() -> None:
    """No two rows share a name, and those that every release is measured by are there."""
    assert len(NAMES) == len(set(NAMES))
    assert set(ISSUE) <= set(NAMES)


def test_rows_are_chosen_by_words() -> None:
    """A row is measured if its name holds one of the words, in any case; groups without such a row are left out."""
    assert [name for _, names in chosen(["STREAM", "resnet50, raw pixels, 8"]) for name in names] == [
        "LeNet-5, stream, 64 at once",
        "resnet50, raw pixels, 8 at once",
    ]
    assert chosen(["no such row"]) == []


def test_time_is_known_in_advance() -> None:
    """Every row says what it takes, more with more rounds."""
    for group in GROUPS:
        assert group.seconds(Plan(rounds=2)) > 0
    assert chosen(["stream"])[0][0].seconds(Plan(rounds=4)) > chosen(["stream"])[0][0].seconds(Plan(rounds=2))


def test_a_line_for_each_ceiling() -> None:
    """A row has a line for each of its ceilings, its name and figures in the first; one without any has its name."""
    line = Line(
        "row", [Compared("a", 3.0, 2.0, "<= 1.4"), Compared("b", 1.0, 4.0)], [Outcome(seconds=1.0, arrived=7)], [2e-6]
    )
    first, second = line.cells()
    assert first == ["row", "7.00", "0.00", "0.00", "2.00", "a", "3.00", "2.00", "1.50", "<= 1.4"]
    assert second == ["", "", "", "", "", "b", "1.00", "4.00", "0.25", ""]
    assert next(Line("refused", []).cells())[0] == "refused"
    assert next(Line("no CPU", [], [Outcome(seconds=1.0, arrived=7)]).cells())[4] == ""


@pytest.mark.parametrize("row", ["top 5 of 10 classes, 1 row", "LeNet-5, stream"])
def test_the_command(row: str) -> None:
    """It says how long it will take, then prints the row with its ratio."""
    command = [sys.executable, "-m", "tests.benchmarks", "--rows", row, "--seconds", "0.2", "--rounds", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert "1 rows, about 0 min" in done.stderr
    assert row in done.stdout
    assert "ratio" in done.stdout


def test_a_row_that_fails() -> None:
    """What fails is a line that says why; what was measured before and after it stays."""

    def breaks(_: Sequence[str], __: Plan, step: Step) -> Iterator[Line]:
        step(0.5)
        yield Line("first", [])
        raise ValueError("broken")

    def works(names: Sequence[str], _: Plan, __: Step) -> Iterator[Line]:
        yield Line(names[0], [])

    groups = [Group(["a"], lambda _: 1.0, breaks), Group(["b"], lambda _: 1.0, works)]
    lines = measure([(group, list(group.names)) for group in groups], Plan())
    assert [line.name for line in lines] == ["first", "FAILED a: ValueError: broken", "b"]


def test_unknown_rows() -> None:
    """Words that no row holds end it with the names that there are."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", "--rows", "x?"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "LeNet-5, stream, 64 at once: " in done.stdout


def test_profile_reads_perf() -> None:
    """CPU is told apart by library."""
    lines = (
        "# Overhead  Object",
        "    46.00%  libpython3.11.so.1.0",
        "    30.00%  [kernel.kallsyms]",
        "    24.00%  cygrpc.so",
    )
    report = "\n".join(lines)
    assert dict(libraries(report)) == {"Python": 46.0, "kernel": 30.0, "gRPC core": 24.0}


def test_profile_reads_stacks() -> None:
    """A sample is its innermost Python function's."""
    assert (
        function(["run (threading.py:982)", "start (/x/service/model.py:7)", "0x7f (libc.so.6)"])
        == "service/model.py start"
    )
    assert function(["0x7f (libc.so.6)"]) == "no Python function"
