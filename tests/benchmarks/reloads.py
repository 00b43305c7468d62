"""What reloads cost callers: sixteen of them, while versions of a model come, change, fail and go; 0 calls may fail.

A real server of LeNet-5 keeps one version. Sixteen callers of the shipped client, in a process of their own, classify
one picture a call, before, while and after versions are published by a rename, copied slowly, replaced, overwritten and
removed, one after the other; every fifth one fails: its golden samples are wrong, it is cut off, or its manifest is.
Calls without reloads are those before and after, in the same run. Exits with 1 if a call failed or, with a server that
loads versions beside each other, had to be repeated.

python -m tests.benchmarks.reloads [--reloads 100] [--quiet 10] [--pause 0.02] [--external] [--workers 2] [--replace]
"""

import argparse
import itertools
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from tests.processes import ServerProcess
from tests.reloading import CallersProcess, Met, Publisher, follow, statuses

POLL = 0.1
WARM = 1.0
"""Seconds of calls that do not count: connections are opened."""


def measure(flags: list[str], given: argparse.Namespace) -> tuple[Met, tuple[float, float], dict[str, int]]:
    """Return what callers met, when reloads began and ended, and the statuses that the server counted."""
    with tempfile.TemporaryDirectory() as folder:
        publisher = Publisher(Path(folder) / "models" / "lenet5", pause=POLL / 2, external=given.external)
        with ServerProcess(Path(folder) / "models", *flags) as server:
            callers = CallersProcess(server.address, given.pause)
            time.sleep(WARM + given.quiet)
            began = time.monotonic()
            for change in itertools.islice(publisher.changes(), given.reloads):
                follow(server, change, given.workers)
            ended = time.monotonic()
            time.sleep(given.quiet)
            return callers.stop(), (began, ended), statuses(server)


def main() -> None:
    """Print how many calls failed, and how long they took with and without reloads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reloads", type=int, default=100)
    parser.add_argument("--quiet", type=float, default=10.0, help="seconds without reloads, before and after")
    parser.add_argument("--pause", type=float, default=0.02, help="seconds between a caller's calls")
    parser.add_argument("--external", action="store_true", help="weights in a file of their own")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--replace", action="store_true", help="--reload replace")
    given = parser.parse_args()
    flags = ["--poll-seconds", str(POLL), "--keep-versions", "1", "--workers", str(given.workers)]
    flags += ["--reload", "replace"] if given.replace else []
    met, (began, ended), ends = measure(flags, given)
    calls = np.array(met.calls)
    calls = calls[calls[:, 0] > began - given.quiet]
    seconds = calls[:, 1] - calls[:, 0]
    during = (calls[:, 1] >= began) & (calls[:, 0] <= ended)
    table = Table("", "seconds", "calls", "p50 ms", "p99 ms", "most ms")
    for name, chosen, length in (
        ("without reloads", ~during, 2 * given.quiet),
        (f"{given.reloads} reloads, {given.reloads // 5} of them failing", during, ended - began),
    ):
        ms = 1000 * seconds[chosen]
        points = [f"{np.percentile(ms, q):.2f}" for q in (50, 99, 100)]
        table.add_row(name, f"{length:.0f}", f"{len(ms):,}", *points)
    failed = sum(met.failures.values())
    repeated = sum(count for code, count in ends.items() if code != "OK")
    Console(width=110).print(
        table,
        f"{failed} of {len(met.calls) + failed:,} calls failed; {repeated} were repeated by the client",
        *met.failures,
    )
    sys.exit(bool(failed or (repeated and not given.replace)))


if __name__ == "__main__":
    main()
