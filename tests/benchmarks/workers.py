"""Workers: what a killed one costs its callers, and what a second one gains.

Kills: sixteen callers of the shipped client, in a process of their own, classify one picture a call, while a worker of
two is killed with SIGKILL, whenever both have listened for two seconds; how many calls fail, and after how many seconds
two listen again. Gain: LeNet's images a second with one and with two workers, in turns, the callers beside them on the
same cores, and what each side uses of them.

python -m tests.benchmarks.workers [--kills 10] [--seconds 4] [--rounds 3] [--only kills|gain]
"""

import argparse
import multiprocessing
import statistics
import threading
import time
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from service.client import Client
from service.errors import SaccadeError
from service.load.processes import Loaders
from tests.benchmarks.lenet import Row
from tests.processes import ServerProcess

CALLERS = 16
CONNECTIONS = 8
SETTLED = 2.0
"""Seconds that both workers have listened for before the next one is killed."""


def call(address: str, pipe: Connection) -> None:
    """Classify with every caller until told to stop; send how many calls were answered, and what failed."""
    picture = np.zeros((28, 28), np.uint8)
    answered = [0] * CALLERS
    failed: list[str] = []
    over = threading.Event()
    with Client(address, connections=CONNECTIONS) as client:

        def caller(number: int) -> None:
            while not over.is_set():
                try:
                    client.classify(picture)
                except SaccadeError as error:
                    failed.append(f"{type(error).__name__}: {error}")
                else:
                    answered[number] += 1

        threads = [threading.Thread(target=caller, args=(number,)) for number in range(CALLERS)]
        for thread in threads:
            thread.start()
        pipe.send("calling")
        pipe.recv()
        over.set()
        for thread in threads:
            thread.join()
    pipe.send((sum(answered), failed))


def kills(count: int) -> None:
    """Print what so many kills cost."""
    with ServerProcess(None, "--workers", "2") as server:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        callers = context.Process(target=call, args=(server.address, there))
        callers.start()
        here.recv()
        seconds = []
        for _ in range(count):
            time.sleep(SETTLED)
            oldest = server.workers()[0]
            killed = time.monotonic()
            oldest.kill()
            server.wait_for("worker ended")
            server.wait_for("worker listening")
            seconds.append(time.monotonic() - killed)
        here.send("stop")
        answered, failed = here.recv()
        callers.join()
    table = Table("kills", "calls", "failed", "two listen again after: median s", "least", "most")
    table.add_row(
        str(count),
        f"{answered + len(failed):,}",
        str(len(failed)),
        *(f"{pick(seconds):.2f}" for pick in (statistics.median, min, max)),
    )
    Console(width=110).print(table, *failed[:3])


ROWS = [
    Row("one picture a call, 32 at once", "unary", 1, 32),
    Row("streams, 64 messages at once", "stream", 1, 64),
    Row("32 pictures a call, 8 at once", "unary", 32, 8),
]


@dataclass(frozen=True)
class Took:
    """What one load gave, and the CPU microseconds that an image cost each side."""

    rate: float
    server: float
    callers: float


def cpu_seconds(*pids: int) -> float:
    """Return what processes and their children have used of the CPU."""
    every = [each for pid in pids for each in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))]
    return sum(each.cpu_times().user + each.cpu_times().system for each in every)


def take(loaders: Loaders, server: ServerProcess, row: Row, seconds: float) -> Took:
    """Put the load of a row on a server; warm-up counts on both sides."""
    load = replace(row.load(server.address, row.path, seconds, core=None), channels=8)
    callers = [each.pid for each in multiprocessing.active_children() if each.pid]
    before = cpu_seconds(server.process.pid), cpu_seconds(*callers)
    rate = loaders.run(load).rate * row.pictures
    images = rate * (load.seconds + load.warm_up) / 1e6
    return Took(
        rate,
        (cpu_seconds(server.process.pid) - before[0]) / images,
        (cpu_seconds(*callers) - before[1]) / images,
    )


def gain(seconds: float, rounds: int) -> None:
    """Print the images a second of one and of two workers, round by round in turns, and who used the cores."""
    took: dict[tuple[Row, int], list[Took]] = {(row, workers): [] for row in ROWS for workers in (1, 2)}
    with (
        ServerProcess(None, "--intra-op-threads", "1") as one,
        ServerProcess(None, "--workers", "2") as two,
        Loaders(1) as loaders,
    ):
        two.wait_for("stand-by ready")
        for _ in range(rounds):
            for row in ROWS:
                for workers, server in ((1, one), (2, two)):
                    took[row, workers].append(take(loaders, server, row, seconds))
    table = Table("LeNet-5", "images/s: one worker", "two workers", "ratio", "CPU us/image: one", "two", "callers, two")
    for row in ROWS:
        ones, twos = took[row, 1], took[row, 2]
        table.add_row(
            row.name,
            spread([each.rate for each in ones], ",.0f"),
            spread([each.rate for each in twos], ",.0f"),
            spread([two.rate / one.rate for one, two in zip(ones, twos, strict=True)], ".2f"),
            f"{statistics.median(each.server for each in ones):,.0f}",
            f"{statistics.median(each.server for each in twos):,.0f}",
            f"{statistics.median(each.callers for each in twos):,.0f}",
        )
    Console(width=140).print(table)


def spread(values: list[float], form: str) -> str:
    """Return the median, and the range in brackets."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=4.0, help="seconds a row and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["kills", "gain"])
    given = parser.parse_args()
    if given.only != "gain":
        kills(given.kills)
    if given.only != "kills":
        gain(given.seconds, given.rounds)


if __name__ == "__main__":
    main()
