"""Workers: what a killed one costs its callers, and what a second one gains.

Kills: sixteen callers of the shipped client, in a process of their own, classify one picture a call, while a worker of
two is killed with SIGKILL, whenever both have listened for two seconds; how many calls fail, and after how many seconds
two listen again. Gain: LeNet's images a second with one and with two workers, in turns, the callers beside them on the
same cores.

python -m tests.benchmarks.workers [--kills 10] [--seconds 4] [--rounds 3] [--only kills|gain]
"""

import argparse
import multiprocessing
import statistics
import threading
import time
from multiprocessing.connection import Connection

import numpy as np
from rich.console import Console
from rich.table import Table

from service.client import Client
from service.errors import SaccadeError
from service.load.plan import Load
from service.load.processes import run
from tests.benchmarks.lenet import CLASSIFY, Row
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


ROWS = [Row("one picture a call, 32 at once", "unary", 1, 32), Row("32 pictures a call, 8 at once", "unary", 32, 8)]


def gain(seconds: float, rounds: int) -> None:
    """Print the images a second of one and of two workers."""
    rates: dict[tuple[Row, int], list[float]] = {(row, workers): [] for row in ROWS for workers in (1, 2)}
    with ServerProcess(None, "--intra-op-threads", "1") as one, ServerProcess(None, "--workers", "2") as two:
        for _ in range(rounds):
            for row in ROWS:
                for workers, server in ((1, one), (2, two)):
                    load = Load(server.address, CLASSIFY, row.request, row.concurrency, seconds, channels=8)
                    rates[row, workers].append(run(load).rate * row.pictures)
    table = Table("LeNet-5", "one worker, images/s", "two workers, images/s", "ratio")
    for row in ROWS:
        one_rate, two_rate = (statistics.median(rates[row, workers]) for workers in (1, 2))
        table.add_row(row.name, f"{one_rate:,.0f}", f"{two_rate:,.0f}", f"{two_rate / one_rate:.2f}")
    Console(width=110).print(table)


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
