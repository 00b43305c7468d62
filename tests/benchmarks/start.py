"""Cold start: seconds from the start of the process to READY, and its memory after some calls.

The ceiling is a process that imports what serving cannot do without, makes the same session and runs it once.
"""

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np
import psutil

from service.client import Client
from tests.benchmarks.lenet import FILE
from tests.benchmarks.machine import median
from tests.benchmarks.table import Compared, Group, Line, Plan, Step
from tests.processes import ServerProcess

ROUNDS = 5
CALLS = 269
ROW = "LeNet-5, start of the process"
_BARE = """
import sys, grpc, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
session.run(None, {session.get_inputs()[0].name: numpy.zeros((1, 28, 28, 1), numpy.uint8)})
print("ready", flush=True)
sys.stdin.read()
"""


def bare() -> tuple[float, float]:
    """Return the seconds and the megabytes of the bare process."""
    command = [sys.executable, "-c", _BARE, str(FILE)]
    started = time.monotonic()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        seconds = time.monotonic() - started
        megabytes = psutil.Process(process.pid).memory_info().rss / 1e6
        process.stdin.close()
    return seconds, megabytes


def served() -> tuple[float, float]:
    """Return the seconds to READY and the megabytes after some calls."""
    with ServerProcess(None) as server, Client(server.address) as client:
        picture = np.zeros((28, 28), np.uint8)
        for _ in range(CALLS):
            client.classify(picture)
        return server.seconds_to_ready, psutil.Process(server.process.pid).memory_info().rss / 1e6


def lines(_: Sequence[str], __: Plan, step: Step) -> Iterator[Line]:
    """Measure it, in turns with the bare process."""
    taken, least = list[tuple[float, float]](), list[tuple[float, float]]()
    for _round in range(ROUNDS):
        taken.append(served())
        least.append(bare())
        step(1 / ROUNDS)
    (seconds, bare_seconds), (megabytes, bare_megabytes) = (
        [median(each[column] for each in found) for found in (taken, least)] for column in (0, 1)
    )
    yield Line(
        ROW,
        [
            Compared("s to READY: bare session in a process", seconds, bare_seconds),
            Compared(f"MB after {CALLS} calls: the same", megabytes, bare_megabytes),
        ],
    )


GROUPS = [Group([ROW], lambda _: ROUNDS * 3.0, lines)]
