"""What the rows of the benchmarks share: cores, the server's CPU, the bare call, the bare session."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import psutil

from service.load.outcome import Outcome
from service.load.plan import Load
from service.load.processes import Loaders
from service.session import Session

ANSWER_BYTES = 150


def fastest(call: Callable[[], object], rounds: int, repeats: int) -> float:
    """Return the fastest round's microseconds a call."""
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        for _ in range(repeats):
            call()
        best = min(best, (time.perf_counter() - started) / repeats * 1e6)
    return best


@dataclass(frozen=True)
class Measured:
    """One load: its outcome, and the server's CPU seconds a call."""

    outcome: Outcome
    cpu: float


def median(values: Iterable[float]) -> float:
    """Return the median."""
    return float(statistics.median(values))


def two_cores() -> tuple[int | None, int | None]:
    """Return a core for the server and one for the load; None where there are not two."""
    cores = sorted(os.sched_getaffinity(0))
    return (cores[0], cores[1]) if len(cores) > 1 else (None, None)


def pin(pid: int, core: int | None) -> None:
    """Pin every thread of a process; those that it makes later inherit it."""
    if core is not None:
        for thread in psutil.Process(pid).threads():
            os.sched_setaffinity(thread.id, {core})


def measure(loaders: Loaders, pid: int, load: Load) -> Measured:
    """Put a load on a server and count what it cost the server, warm-up included on both sides."""
    process = psutil.Process(pid)
    before = process.cpu_times()
    outcome = replace(loaders.run(load), images=load.images)
    after = process.cpu_times()
    cpu = after.user + after.system - before.user - before.system
    calls = outcome.rate * (load.seconds + load.warm_up)
    return Measured(outcome, cpu / calls if calls else 0.0)


@dataclass(frozen=True)
class Bare:
    """What a picture takes in the bare session: seconds by the clock, and of the CPU in the calling thread."""

    seconds: float
    cpu: float


def bare_session(session: Session, batch: int, seconds: float, core: int | None = None) -> Bare:
    """Measure the bare session on batches of one size; on one core if one is given."""
    pictures = np.zeros((batch, *session.input_shape), np.uint8)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before if core is None else {core})
    session.run(pictures)
    started, cpu, count = time.perf_counter(), time.thread_time(), 0
    while time.perf_counter() - started < seconds:
        session.run(pictures)
        count += batch
    os.sched_setaffinity(0, before)
    return Bare((time.perf_counter() - started) / count, (time.thread_time() - cpu) / count)


@contextmanager
def echo_server() -> Iterator[tuple[int, str]]:
    """Give the process and the address of a bare gRPC server."""
    command = [sys.executable, "-m", "tests.benchmarks.echo", str(ANSWER_BYTES)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdin
        yield process.pid, f"127.0.0.1:{int(process.stdout.readline())}"
        process.stdin.close()
