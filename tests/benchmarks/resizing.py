"""Pictures resized at the client: what it saves, what it costs, and how the answers differ.

Each picture is sent as the file that it is, as the pixels that `ModelEntry.fitted` makes of it, and as the JPEG that
`ModelEntry.shrunk` makes. A model that computes next to nothing shows what decoding costs; ResNet-18 with weights that
are random shows a real network, and how its probabilities differ. What making and decoding a picture takes is time of a
processor. Images a second are those of pictures made before, as if callers had processors elsewhere; one caller makes
each picture first, on this machine.

python -m tests.benchmarks.resizing                                  # drawn: 500x375, 1600x1200 and 4000x3000
python -m tests.benchmarks.resizing --pictures photos/ --seconds 6   # a folder's files
"""

import argparse
import io
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from PIL import Image
from rich.console import Console
from rich.table import Table

from export.drawn import pictures
from service import image
from service.client import Answer, Client, ModelEntry
from service.client.base import CLASSIFY
from service.client.fitting import fitted, shrunk
from service.client.pictures import Choice, Picture
from service.load.plan import Load
from service.load.processes import run
from service.manifest import Preprocessing
from tests.benchmarks.heavy import write
from tests.onnx_models import write_model
from tests.processes import ServerProcess

CALLERS = 8
NETWORK = "resnet18"
SPEC = Preprocessing(height=224, width=224, channels=3, fit="crop", crop_fraction=0.875)
SIZES = ("500x375", "1600x1200", "4000x3000")


def drawn(width: int, height: int, count: int = 8) -> list[bytes]:
    """Return JPEG files of drawings with some noise, about as large as a camera's."""
    random = np.random.default_rng(0)
    files = []
    for drawing in pictures(count, 3, seed=2):
        large = np.asarray(Image.fromarray(drawing).resize((width, height), Image.Resampling.BICUBIC), np.int16)
        file = io.BytesIO()
        noisy = (large + random.normal(0, 4, large.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


@dataclass
class Way:
    """One way to send the pictures, and what came of it."""

    name: str
    make: Callable[[bytes], Picture]
    bytes_each: float = 0.0
    make_ms: float = 0.0
    decode_ms: float = 0.0
    one_caller_ms: float = 0.0
    server_ms: float = 0.0
    rate: float = 0.0
    same: float = 1.0
    apart: float = 0.0


def ways(entry: ModelEntry) -> list[Way]:
    """Return the ways to send a picture to a model."""
    return [Way("file", lambda file: file), Way("fitted", entry.fitted), Way("shrunk", entry.shrunk)]


def milliseconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return how long some work took; by time.thread_time, how much of a processor."""
    started = clock()
    work()
    return 1000 * (clock() - started)


def decoded(picture: Picture) -> object:
    """Make the model's input of what was sent, as the server does."""
    if isinstance(picture, bytes):
        return image.decode(picture, SPEC, max_pixels=10**9)
    return picture  # pixels of the model's size are taken as they are


def probabilities(answer: Answer) -> dict[int, float]:
    """Return the probability of each class."""
    return {category.index: category.probability for category in answer.classifications[0]}


def compare(way: Way, client: Client, entry: ModelEntry, files: Sequence[bytes]) -> None:
    """Measure one way with one caller, and how its answers differ from those to the files."""
    sent: list[Picture] = [way.make(file) for file in files]
    bodies = [Choice(entry.name).request([picture]).SerializeToString() for picture in sent]
    way.bytes_each = statistics.mean(map(len, bodies))
    cpu = time.thread_time
    way.make_ms = statistics.mean(milliseconds(partial(way.make, file), cpu) for file in files)
    way.decode_ms = statistics.mean(milliseconds(partial(decoded, picture), cpu) for picture in sent)
    answers = [client.classify(picture, model=entry.name, top_k=1000) for picture in sent]
    way.one_caller_ms = statistics.median(
        milliseconds(lambda file=file: client.classify(way.make(file), model=entry.name))  # type: ignore[misc]
        for file in files
    )
    same = []
    for file, answer in zip(files, answers, strict=True):
        expected, found = probabilities(client.classify(file, model=entry.name, top_k=1000)), probabilities(answer)
        same.append(max(expected, key=expected.__getitem__) == max(found, key=found.__getitem__))
        way.apart = max(way.apart, *(abs(expected[index] - found[index]) for index in expected))
    way.same = statistics.mean(same)


def images(server: ServerProcess) -> float:
    """Return how many pictures a server has answered."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("saccade_images_total{"))


def load(way: Way, server: ServerProcess, entry: ModelEntry, files: Sequence[bytes], seconds: float) -> None:
    """Measure one way with several callers, who have the pictures ready."""
    bodies = tuple(Choice(entry.name).request([way.make(file)]).SerializeToString() for file in files)
    process = psutil.Process(server.process.pid)
    cpu, answered = sum(process.cpu_times()[:2]), images(server)
    outcome = run(Load(server.address, CLASSIFY.path, bodies, CALLERS, seconds, 0.5))
    way.server_ms = 1000 * (sum(process.cpu_times()[:2]) - cpu) / (images(server) - answered)
    way.rate = outcome.rate
    assert not outcome.failed, outcome.failed


def sizes(name: str, files: Sequence[bytes]) -> None:
    """Print bytes and processor time of each way, which need no server."""
    makes: dict[str, Callable[[bytes], Picture]] = {
        "file": lambda file: file,
        "fitted": lambda file: fitted(file, SPEC),
        "shrunk": lambda file: shrunk(file, SPEC, quality=90),
    }
    for way, make in makes.items():
        sent: list[Picture] = [make(file) for file in files]
        kilobytes = statistics.mean(len(Choice().request([picture]).SerializeToString()) for picture in sent) / 1000
        made = statistics.mean(milliseconds(partial(make, file), time.thread_time) for file in files)
        read = statistics.mean(milliseconds(partial(decoded, picture), time.thread_time) for picture in sent)
        print(f"{name:10} {way:7} {kilobytes:8.1f} KB  made {made:7.2f} ms  decoded {read:7.2f} ms")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, help="folder of picture files; without it they are drawn")
    parser.add_argument("--sizes", nargs="+", default=SIZES, metavar="WIDTHxHEIGHT", help="of what is drawn")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load; 0: none")
    parser.add_argument("--no-server", action="store_true", help="bytes and processor time only, which takes seconds")
    given = parser.parse_args()
    sets = {size: drawn(*map(int, size.split("x"))) for size in given.sizes}
    if given.pictures:
        found = sorted(path for path in given.pictures.iterdir() if path.suffix.lower() in {".jpg", ".jpeg"})
        sets = {f"{len(found)} files": [path.read_bytes() for path in found]}
    if given.no_server:
        for name, files in sets.items():
            sizes(name, files)
        return
    table = Table(
        "pictures", "model", "sent", "KB", "made ms", "decoded ms", "1 caller ms", "server CPU ms", "images/s"
    )
    for column in ("same top 1", "largest difference"):
        table.add_column(column)
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "models"
        write(NETWORK, repository)
        write_model(repository / "linear/1", labels=[str(number) for number in range(10)], spec=SPEC, samples=0)
        with ServerProcess(repository) as server, Client(server.address, timeout=60) as client:
            for name, files in sets.items():
                for model in ("linear", NETWORK):
                    entry = client.model(model)
                    for way in ways(entry):
                        compare(way, client, entry, files)
                        if given.seconds:
                            load(way, server, entry, files, given.seconds)
                        table.add_row(
                            name,
                            model,
                            way.name,
                            f"{way.bytes_each / 1000:,.1f}",
                            *(f"{value:.2f}" for value in (way.make_ms, way.decode_ms, way.one_caller_ms)),
                            f"{way.server_ms:.2f}",
                            f"{way.rate:,.0f}",
                            f"{way.same:.1%}",
                            f"{way.apart:.2g}",
                        )
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
