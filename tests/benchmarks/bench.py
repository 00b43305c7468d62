"""`make bench`: what a call costs the server, against its ceiling in the same run.

No assertions: ratios travel from machine to machine, times do not. The ceiling of a row is what nobody can do without:
a bare gRPC handler that answers as many bytes, plus the bare session at its best batch for each picture. Server and
load are pinned to a core each where there are two; rows and ceilings take turns.

python -m tests.benchmarks.bench [--seconds 4] [--rounds 3]
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import psutil
from rich.console import Console
from rich.progress import track
from rich.table import Table

from service.load.outcome import Outcome
from service.load.plan import Load
from service.load.processes import run
from service.rpc.pb.inference import service_pb2
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb
from service.server import BUNDLED, BUNDLED_DEFAULT
from service.session import Session
from tests.benchmarks import echo
from tests.processes import ServerProcess

CLASSIFY = "/saccade.v1.ImageClassifier/Classify"
INFER = "/inference.GRPCInferenceService/ModelInfer"
SIDE = 28
ANSWER_BYTES = 150
WARM_UP = 0.5


@dataclass(frozen=True)
class Row:
    """One row: what is asked, how often at once, and the bare method that is its ceiling."""

    name: str
    kind: Literal["unary", "stream"]
    pictures: int
    concurrency: int
    protocol: Literal["saccade", "inference"] = "saccade"

    @property
    def path(self) -> str:
        """The method."""
        if self.protocol == "inference":
            return INFER
        return f"{CLASSIFY}Stream" if self.kind == "stream" else CLASSIFY

    @property
    def request(self) -> bytes:
        """The message: raw pixels of the model's size."""
        if self.protocol == "inference":
            message = service_pb2.ModelInferRequest(model_name=BUNDLED_DEFAULT)
            message.inputs.add(name="image", datatype="UINT8", shape=[self.pictures, SIDE, SIDE, 1])
            message.raw_input_contents.append(bytes(self.pictures * SIDE * SIDE))
            return message.SerializeToString()
        pixels = pb.Pixels(height=SIDE, width=SIDE, channels=1, data=bytes(SIDE * SIDE))
        return pb.ClassifyRequest(images=[pb.Image(pixels=pixels)] * self.pictures).SerializeToString()

    def load(self, address: str, method: str, seconds: float, core: int | None) -> Load:
        """Return the load of this row on a server."""
        return Load(address, method, self.request, self.concurrency, seconds, WARM_UP, kind=self.kind, core=core)


ROWS = [
    *(Row(f"LeNet-5, one picture, {count} at once", "unary", 1, count) for count in (1, 8, 32, 128)),
    Row("LeNet-5, stream, 64 at once", "stream", 1, 64),
    Row("LeNet-5, 32 pictures a call, 8 at once", "unary", 32, 8),
    Row("ModelInfer, one picture, 32 at once", "unary", 1, 32, "inference"),
    Row("ModelInfer, 32 pictures a call, 8 at once", "unary", 32, 8, "inference"),
]
MOST_OF_CLASSIFY = 1.15
"""What ModelInfer may cost the server at most, beside Classify with the same pixels."""


@dataclass(frozen=True)
class Measured:
    """One load: its outcome, and the server's CPU seconds a call."""

    outcome: Outcome
    cpu: float


def pin(pid: int, core: int | None) -> None:
    """Pin every thread of a process; those that it makes later inherit it."""
    if core is not None:
        for thread in psutil.Process(pid).threads():
            os.sched_setaffinity(thread.id, {core})


def measure(pid: int, load: Load) -> Measured:
    """Put a load on a server and count what it cost the server, warm-up included on both sides."""
    process = psutil.Process(pid)
    before = process.cpu_times()
    outcome = run(load)
    after = process.cpu_times()
    cpu = after.user + after.system - before.user - before.system
    return Measured(outcome, cpu / (outcome.rate * (load.seconds + load.warm_up)))


def session_seconds(batches: Sequence[int] = (1, 8, 32)) -> float:
    """Return the seconds a picture of the bare session on one thread, at its best batch."""
    session = Session(
        BUNDLED / BUNDLED_DEFAULT / "1/model.onnx", "cpu", intra_op_threads=1, max_batch_size=max(batches)
    )
    best = float("inf")
    for size in batches:
        batch = np.zeros((size, SIDE, SIDE, 1), np.uint8)
        for _ in range(5):
            started = time.perf_counter()
            for _ in range(200):
                session.run(batch)
            best = min(best, (time.perf_counter() - started) / 200 / size)
    return best


@contextmanager
def echo_server() -> Iterator[tuple[int, str]]:
    """Give the process and the address of a bare gRPC server."""
    command = [sys.executable, "-m", "tests.benchmarks.echo", str(ANSWER_BYTES)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdin
        yield process.pid, f"127.0.0.1:{int(process.stdout.readline())}"
        process.stdin.close()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="seconds a row and round")
    parser.add_argument("--rounds", type=int, default=3, help="how often all rows are measured")
    given = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    server_core, load_core = (cores[0], cores[1]) if len(cores) > 1 else (None, None)
    served: dict[Row, list[Measured]] = {row: [] for row in ROWS}
    bare: dict[Row, list[Measured]] = {row: [] for row in ROWS}
    sessions = []
    with echo_server() as (echo_pid, echo_address), ServerProcess(None, "--intra-op-threads", "1") as server:
        turns = [row for _ in range(given.rounds) for row in ROWS]
        for row in track(turns, "measuring", console=Console(stderr=True)):
            pin(echo_pid, server_core)
            pin(server.process.pid, server_core)
            method = echo.STREAM if row.kind == "stream" else echo.UNARY
            bare[row].append(measure(echo_pid, row.load(echo_address, method, given.seconds, load_core)))
            load = row.load(server.address, row.path, given.seconds, load_core)
            served[row].append(measure(server.process.pid, load))
            sessions.append(session_seconds())
    session = statistics.median(sessions)
    table = Table("row", "images/s", "p50 ms", "p99 ms", "server CPU us/image", "ceiling us/image", "ratio")
    for row in ROWS:
        cpu = statistics.median(each.cpu for each in served[row]) / row.pictures
        ceiling = statistics.median(each.cpu for each in bare[row]) / row.pictures + session
        outcomes = [each.outcome for each in served[row]]
        table.add_row(
            row.name,
            f"{statistics.median(each.rate for each in outcomes) * row.pictures:,.0f}",
            f"{statistics.median(each.milliseconds(50) for each in outcomes):.2f}",
            f"{statistics.median(each.milliseconds(99) for each in outcomes):.2f}",
            f"{cpu * 1e6:.0f}",
            f"{ceiling * 1e6:.0f}",
            f"{cpu / ceiling:.2f}",
        )
    Console(width=130).print(table)
    for row in ROWS:
        if row.protocol == "inference":
            classify = next(
                other for other in ROWS if (row.pictures, row.concurrency) == (other.pictures, other.concurrency)
            )
            ratio = statistics.median(
                infer.cpu / same.cpu for infer, same in zip(served[row], served[classify], strict=True)
            )
            Console(width=130).print(f"{row.name}: {ratio:.2f} times Classify's CPU (goal: at most {MOST_OF_CLASSIFY})")


if __name__ == "__main__":
    main()
