"""Callers that never stop while the versions of a model come and go in every way in which people change them."""

import itertools
import multiprocessing
import shutil
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import onnx
from onnx import helper

from service import image
from service.client import Client
from service.manifest import KEY, GoldenSample, Manifest, read_manifest
from service.server import BUNDLED, BUNDLED_DEFAULT
from tests.fakes import WAIT
from tests.processes import ServerProcess

CALLERS = 16
LENET = BUNDLED / BUNDLED_DEFAULT / "1/model.onnx"
PIECES = 3
"""In how many a file is copied slowly."""

Files = Mapping[str, bytes]
"""The files of a version: contents by name."""


@dataclass
class Met:
    """What callers met: answers by version, failures by text, when each answered call began and ended, in seconds."""

    versions: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    calls: list[tuple[float, float]] = field(default_factory=list)

    def add(self, other: "Met") -> None:
        """Add what another met."""
        self.versions.update(other.versions)
        self.failures.update(other.failures)
        self.calls += other.calls


class Callers:
    """Callers of a golden sample of LeNet-5, each with a client of its own, until the block is left.

    An answer without the sample's class as its best is a failure.

    Args:
        address: of the server.
        count: of the callers.
        pause: seconds between a caller's calls.
    """

    def __init__(self, address: str, count: int = CALLERS, pause: float = 0.0) -> None:
        self._address = address
        self._pause = pause
        manifest = read_manifest(LENET)
        sample = manifest.golden_samples[0]
        self._picture = image.decode(sample.picture, manifest.preprocessing, max_pixels=10**6)
        self._label = sample.label
        self._stop = threading.Event()
        self._each = [Met() for _ in range(count)]
        self._threads = [threading.Thread(target=self._call, args=(met,)) for met in self._each]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(WAIT)

    @property
    def met(self) -> Met:
        """What all of them met; ask when the block was left."""
        together = Met()
        for met in self._each:
            together.add(met)
        return together

    def _call(self, met: Met) -> None:
        with Client(self._address) as client:
            while not self._stop.is_set():
                began = time.monotonic()
                try:
                    answer = client.classify(self._picture)
                except Exception as error:  # noqa: BLE001 - counted by those who wait for none
                    met.failures[repr(error)] += 1
                else:
                    met.versions[answer.version] += 1
                    met.calls.append((began, time.monotonic()))
                    if answer.classifications[0][0].index != self._label:
                        met.failures[f"version {answer.version} was wrong"] += 1
                self._stop.wait(self._pause)


class CallersProcess:
    """`Callers` in a process of their own, so that nothing here keeps them waiting."""

    def __init__(self, address: str, pause: float) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=_call, args=(address, pause, there))
        self._process.start()
        self._here.recv()

    def stop(self) -> Met:
        """End them and return what they met."""
        self._here.send("stop")
        met: Met = self._here.recv()
        self._process.join()
        return met


def _call(address: str, pause: float, pipe: Connection) -> None:
    with Callers(address, pause=pause) as callers:
        pipe.send("calling")
        pipe.recv()
    pipe.send(callers.met)


def right(mark: int = 0, *, external: bool = False, shift: float = 0.0) -> Files:
    """Return a version of LeNet-5 that passes its self-test.

    Args:
        mark: makes its bytes others.
        external: with its weights in a file of their own.
        shift: added to the first probability of every golden sample; beyond the tolerance it fails.
    """
    model = onnx.load(LENET)
    manifest = read_manifest(LENET)
    samples = tuple(_shifted(sample, shift) for sample in manifest.golden_samples)
    changed = manifest.model_copy(update={"golden_samples": samples, "data": f"{manifest.data} {mark}"})
    helper.set_model_props(model, {KEY: Manifest.to_json(changed)})
    if not external:
        return {"model.onnx": model.SerializeToString()}
    weights = b""
    for tensor in model.graph.initializer:
        length = len(tensor.raw_data)
        if length < 1024:
            continue
        place = {"location": "weights.bin", "offset": len(weights), "length": length}
        weights += tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.extend(onnx.StringStringEntryProto(key=key, value=str(it)) for key, it in place.items())
    return {"weights.bin": weights, "model.onnx": model.SerializeToString()}


def _shifted(sample: GoldenSample, shift: float) -> GoldenSample:
    first, *rest = sample.probabilities
    return sample.model_copy(update={"probabilities": (abs(first - shift), *rest)})


def wrong(*, external: bool = False) -> dict[str, Files]:
    """Return versions that fail, by why they do."""
    good, shifted = right(external=external), right(external=external, shift=0.1)
    ways: dict[str, Files] = {
        "golden sample": shifted,
        "not a whole ONNX file": {**good, "model.onnx": good["model.onnx"][:-100]},
        "not JSON": {**good, "manifest.json": b'{"labels": ["0", '},
    }
    if external:
        ways["is missing"] = {"model.onnx": good["model.onnx"]}
        ways["bytes, "] = {**good, "weights.bin": good["weights.bin"][:-100]}
    return ways


class Change(NamedTuple):
    """What was changed on disk, and what the server has to say of it."""

    version: int
    event: str
    reason: str = ""


class Publisher:
    """A model's folder, changed in every way, one after the other; every fifth change is a version that fails.

    Args:
        model: the folder; it is made, with version 1.
        pause: seconds between the pieces of a slow copy.
        external: with the weights in a file of their own.
    """

    def __init__(self, model: Path, *, pause: float, external: bool = False) -> None:
        self._model = model
        self._pause = pause
        self._external = external
        self._newest = 1
        self._in_place = False
        self._right = [right(mark, external=external) for mark in range(3)]
        self._wrong = wrong(external=external)
        self._staging = model.parent / ".staging"
        model.mkdir(parents=True)
        self._rename(1, self._right[0])

    def changes(self) -> Iterator[Change]:
        """Make one change after another, for ever."""
        ways = itertools.cycle([self.publish, self.copy_slowly, self.replace, self.remove])
        whys = itertools.cycle(self._wrong)
        for number in itertools.count(1):
            yield self.fail(next(whys), in_place=number % 10 == 0) if number % 5 == 0 else next(ways)()

    def publish(self) -> Change:
        """Put a new version there by one rename, and remove those before the last one."""
        self._newest += 1
        self._rename(self._newest, self._next())
        for each in self._model.iterdir():
            if int(each.name) < self._newest - 1:
                shutil.rmtree(each)
        return Change(self._newest, "model ready")

    def copy_slowly(self) -> Change:
        """Copy a new version into its place file by file, piece by piece."""
        self._newest += 1
        target = self._model / str(self._newest)
        target.mkdir()
        for name, content in self._next().items():
            size = len(content) // PIECES + 1
            with (target / name).open("wb") as file:
                for start in range(0, len(content), size):
                    file.write(content[start : start + size])
                    file.flush()
                    time.sleep(self._pause)
        return Change(self._newest, "model ready")

    def replace(self) -> Change:
        """Put other files over those of the newest version, by turns by rename, as `mv` does, and in place, as `cp`."""
        self._in_place = not self._in_place
        if self._in_place:
            for name, content in self._next().items():
                (self._model / str(self._newest) / name).write_bytes(content)
        else:
            self._over(self._newest, self._next())
        return Change(self._newest, "model ready")

    def remove(self) -> Change:
        """Remove the newest version: the one before is loaded again, as only one is kept."""
        shutil.rmtree(self._model / str(self._newest))
        self._newest -= 1
        return Change(self._newest, "model ready")

    def fail(self, why: str, *, in_place: bool = False) -> Change:
        """Publish a version that fails, in place of the newest one or as a new one."""
        if in_place:
            self._over(self._newest, self._wrong[why])
        else:
            self._newest += 1
            self._rename(self._newest, self._wrong[why])
        return Change(self._newest, "model failed", why)

    def _next(self) -> Files:
        self._right.append(self._right.pop(0))
        return self._right[-1]

    def _rename(self, version: int, files: Files) -> None:
        self._write(files)
        self._staging.rename(self._model / str(version))

    def _over(self, version: int, files: Files) -> None:
        target = self._model / str(version)
        self._write(files)
        for each in target.iterdir():
            if each.name not in files:
                each.unlink()
        for name in files:
            (self._staging / name).rename(target / name)
        self._staging.rmdir()

    def _write(self, files: Files) -> None:
        self._staging.mkdir()
        for name, content in files.items():
            (self._staging / name).write_bytes(content)


def follow(server: ServerProcess, change: Change, workers: int = 1) -> None:
    """Return when every worker of the server has said what it has to say of a change."""
    heard: set[int] = set()
    while len(heard) < workers:
        line = server.wait_for(change.event)
        if line["version"] == change.version and change.reason in line.get("reason", ""):
            heard.add(line.get("worker", 0))


def statuses(server: ServerProcess) -> dict[str, int]:
    """Return how many calls of Classify ended with each status, repeated ones too."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=WAIT) as page:
        lines = page.read().decode().splitlines()
    counted: Counter[str] = Counter()
    for line in lines:
        if line.startswith("saccade_requests_total{") and 'method="Classify"' in line:
            counted[line.split('code="')[1].split('"')[0]] += int(float(line.rsplit(" ", 1)[1]))
    return dict(counted)
