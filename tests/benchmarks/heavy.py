"""Heavy networks: ResNets with random weights through the server, beside the bare session in the same run.

Raw pixels and JPEG at 1, 8 and 32 callers. The ceiling is the bare session with all cores on one picture at a time,
which is its best on a CPU (batches buy a ResNet nothing there); for one caller the median latency stands beside the
bare session plus a bare call. Server, load and session take turns.

python -m tests.benchmarks.heavy [--networks resnet18 resnet50] [--seconds 6] [--rounds 3] [--server-flags ...]
"""

import argparse
import io
import shlex
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from export import architectures, published
from export.drawn import pictures
from service.load.outcome import Outcome
from service.load.plan import Load
from service.load.processes import run
from service.manifest import Preprocessing
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb
from service.session import Session
from tests.benchmarks import echo
from tests.benchmarks.bench import echo_server
from tests.networks import lively
from tests.processes import ServerProcess

CLASSIFY = "/saccade.v1.ImageClassifier/Classify"
SIDE = 224
CALLERS = (1, 8, 32)


def write(name: str, repository: Path) -> Path:
    """Put a network with random weights into a repository and return its file."""
    weights = repository.parent / f"{name}.pth"
    torch.save(lively(architectures.find(name).build(3, 1000), 3, SIDE).state_dict(), weights)
    labels = repository.parent / "labels.txt"
    labels.write_text("\n".join(f"class {number}" for number in range(1000)))
    path = repository / name / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    published.write(published.load(name, weights, labels=labels, preset="imagenet"), path)
    return path


def requests(name: str) -> dict[str, bytes]:
    """Return the bytes of a request with raw pixels, and of one with a JPEG of 500x375."""
    spec = Preprocessing(height=SIDE, width=SIDE, channels=3)
    pixels = pb.Pixels(height=spec.height, width=spec.width, channels=3, data=bytes(SIDE * SIDE * 3))
    file = io.BytesIO()
    Image.fromarray(pictures(1, 3)[0]).resize((500, 375)).save(file, "JPEG", quality=90)
    return {
        "pixels": pb.ClassifyRequest(model=name, images=[pb.Image(pixels=pixels)]).SerializeToString(),
        "JPEG": pb.ClassifyRequest(model=name, images=[pb.Image(encoded=file.getvalue())]).SerializeToString(),
    }


def bare(session: Session, seconds: float) -> float:
    """Return the seconds of one picture in the bare session."""
    batch = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    session.run(batch)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        session.run(batch)
        count += 1
    return (time.perf_counter() - started) / count


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["resnet18", "resnet50"])
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--server-flags", default="", help="for example '--max-batch-size 4'")
    given = parser.parse_args()
    table = Table("network", "picture", "callers", "images/s", "bare session", "ratio", "p50 ms", "bare + call ms")
    for name in given.networks:
        with tempfile.TemporaryDirectory() as folder:
            path = write(name, Path(folder) / "models")
            rows = [(kind, callers) for kind in ("pixels", "JPEG") for callers in CALLERS]
            served: dict[tuple[str, int], list[Outcome]] = {row: [] for row in rows}
            sessions, calls = [], []
            bodies = requests(name)
            bare_session = Session(path, "cpu", intra_op_threads=0, max_batch_size=1)
            flags = shlex.split(given.server_flags)
            with ServerProcess(path.parents[2], *flags) as server, echo_server() as (_, echo_address):
                for row in track(rows * given.rounds, name, console=Console(stderr=True)):
                    sessions.append(bare(bare_session, given.seconds / 3))
                    kind, callers = row
                    calls.append(run(Load(echo_address, echo.UNARY, bodies[kind], 1, 0.5)).milliseconds(50))
                    served[row].append(run(Load(server.address, CLASSIFY, bodies[kind], callers, given.seconds, 2.0)))
            session, call = statistics.median(sessions), statistics.median(calls)
            for (kind, callers), outcomes in served.items():
                rate = statistics.median(outcome.rate for outcome in outcomes)
                table.add_row(
                    name,
                    kind,
                    str(callers),
                    f"{rate:.1f}",
                    f"{1 / session:.1f}",
                    f"{rate * session:.2f}",
                    f"{statistics.median(outcome.milliseconds(50) for outcome in outcomes):.1f}",
                    f"{session * 1000 + call:.1f}",
                )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
