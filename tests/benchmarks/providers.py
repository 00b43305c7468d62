"""Every provider at hand on the same files: a ResNet-50 with random weights, on GPUs in fp16 too, and LeNet-5.

For each provider, and each precision that it can be told: images a second served and of the bare session in the same
run, p50 and p99, how often it agrees with the cpu provider on the best class, and how much faster than the cpu provider
it serves. What a machine cannot run has a row too, with the reason. ONNX Runtime's distributions exclude each other, so
run it in each one's environment; where there is no torch, give it a folder that another run wrote.

python -m tests.benchmarks.providers [--models FOLDER] [--seconds 6] [--rounds 3] [--callers 8] [--images 4]
"""

import argparse
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from service.errors import SaccadeError
from service.load.outcome import Outcome
from service.load.plan import Load
from service.load.processes import run
from service.loading import said_precision
from service.manifest import KEY, read_fields, read_manifest
from service.providers import Provider, parse_options
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb
from service.server import BUNDLED
from service.session import Session, candidates, check_runtime, computed
from tests.benchmarks.lenet import CLASSIFY
from tests.benchmarks.precision import unsampled
from tests.benchmarks.table import Compared, Group, Line, Plan, Step
from tests.processes import ServerProcess

HALF = "resnet50-fp16"
OPTIONS: dict[Provider, Sequence[str]] = {
    "cpu": ("",),
    "openvino": ("precision=fp32", "precision=bf16"),
    "cuda": ("tf32=false", "tf32=true"),
    "tensorrt": ("precision=tf32", "precision=fp16"),
}
GPUS = {"cuda", "tensorrt"}
NVIDIA_SMI = ("nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits")
COMPARED = 64
"""Pictures on which the best class is compared with the cpu provider's."""


class Row(NamedTuple):
    """One provider with options on one model."""

    provider: Provider
    options: str
    device: str
    precision: str
    served: Sequence[Outcome]
    images: int
    bare: float
    agreement: float
    gpu_mb: float | None = None
    """What the server took of the GPU's memory, in MB; None where there is no GPU."""
    reason: str = ""

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images * statistics.median(outcome.rate for outcome in self.served) if self.served else 0.0


def models(folder: Path) -> None:
    """Write those files that are compared which are not there: ResNet-50 needs the extra `train`."""
    if not (folder / "resnet50").is_dir():
        from tests.benchmarks.heavy import write

        write("resnet50", folder)
    without_samples(folder / "resnet50/1/model.onnx")
    if GPUS & set(candidates("auto")) and not (folder / HALF).is_dir():
        halved(folder / "resnet50/1/model.onnx", folder / HALF / "1/model.onnx")
    if not (folder / "lenet5-mnist").is_dir():
        shutil.copytree(BUNDLED / "lenet5-mnist", folder / "lenet5-mnist")


def without_samples(path: Path) -> None:
    """Take the golden samples out of a fp32 file with random weights."""
    from export import foreign

    manifest = read_manifest(path)
    if manifest.golden_samples:
        written = path.with_suffix(".new")
        foreign.write_manifest(path, written, unsampled(manifest, "fp32"))
        written.replace(path)


def halved(path: Path, target: Path) -> None:
    """Write an fp16 file of a fp32 one."""
    import onnx

    from export import fp16, int8

    model = int8.prepare(onnx.load(path))
    done = fp16.convert(model)
    done.producer_name = model.producer_name
    onnx.helper.set_model_props(done, {KEY: unsampled(read_manifest(path), "fp16").to_json()})
    target.parent.mkdir(parents=True)
    onnx.save(done, target)


def noise(shape: Sequence[int], count: int) -> npt.NDArray[np.uint8]:
    """Return pictures of coloured blocks: of even noise all would be alike to a network."""
    height, width, channels = shape
    random = np.random.default_rng(5)
    blocks = random.integers(0, 256, (count, 7, 7, channels), dtype=np.uint8)
    rows, columns = (np.arange(side) * 7 // side for side in (height, width))
    return blocks[:, rows][:, :, columns]


def bare(session: Session, batch: npt.NDArray[Any], seconds: float) -> float:
    """Return the images a second of the bare session."""
    session.run(batch)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        session.run(batch)
        count += len(batch)
    return count / (time.perf_counter() - started)


def measure(path: Path, provider: Provider, options: str, given: argparse.Namespace, best: dict[str, Any]) -> Row:
    """Measure one provider on one model."""
    model, images = path.parents[1].name, given.images
    name = model.removesuffix("-fp16")
    try:
        session = Session(
            path,
            provider,
            intra_op_threads=0,
            max_batch_size=given.images * given.callers if provider in GPUS else 8,
            options=parse_options(provider, options).get(provider),
            precision=said_precision(read_fields(path)),
        )
        pictures = noise(session.input_shape, COMPARED)
        classes = np.concatenate([session.run(pictures[first : first + 8]) for first in range(0, COMPARED, 8)])
    except SaccadeError as error:
        return Row(provider, options, "", "", [], images, 0.0, 0.0, reason=str(error))
    session.take_over()
    agreement = float((classes.argmax(axis=1) == best.setdefault(name, classes.argmax(axis=1))).mean())
    height, width, channels = session.input_shape
    pixels = [
        pb.Image(pixels=pb.Pixels(height=height, width=width, channels=channels, data=p.tobytes())) for p in pictures
    ]
    request = pb.ClassifyRequest(model=model, images=pixels[:images]).SerializeToString()
    flags = ["--provider", provider, "--max-batch-size", str(session.buckets[-1]), "--allow-unverified"]
    flags += ["--provider-options", options] if options else []
    served, bares = [], []
    before = gpu_megabytes()
    with ServerProcess(path.parents[2], *flags, "--ready", "any") as server:
        for _ in range(given.rounds):
            bares += [bare(session, pictures[: session.buckets[-1]], given.seconds / 3)]
            served += [run(Load(server.address, CLASSIFY, request, given.callers, given.seconds, 1.0))]
        after = gpu_megabytes()
    refused = "; ".join(reason for outcome in served if not outcome.arrived for reason in outcome.details.values())
    if refused:
        return Row(provider, options, "", "", [], images, 0.0, 0.0, reason=refused)
    about = session.about
    precision = computed(said_precision(read_fields(path)), about.floats)
    taken = None if before is None or after is None else after - before
    return Row(
        provider, options, about.device, precision, served, images, statistics.median(bares), agreement, gpu_mb=taken
    )


def gpu_megabytes(command: Sequence[str] = NVIDIA_SMI) -> float | None:
    """Return how many MB of all GPUs' memory are in use; None where there is no GPU."""
    try:
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return sum(float(line) * 1.048576 for line in shown.split())


def rows(path: Path, given: argparse.Namespace) -> Iterator[Row]:
    """Measure every provider at hand, the cpu provider first."""
    best: dict[str, Any] = {}
    for provider in reversed(candidates("auto")):
        for options in OPTIONS[provider]:
            yield measure(path, provider, options, given, best)
        half = path.parents[2] / HALF / "1/model.onnx"
        if provider in GPUS and path.parents[1].name == "resnet50" and half.is_file():
            yield measure(half, provider, "", given, best)


def lines(names: Sequence[str], plan: Plan, step: Step) -> Iterator[Line]:
    """Give every provider at hand a row, as the table of `make bench` has them."""
    given = argparse.Namespace(seconds=plan.seconds, rounds=plan.rounds, callers=8, images=4)
    with tempfile.TemporaryDirectory() as folder:
        root = plan.models or Path(folder) / "models"
        models(root)
        for name in names:
            base: Row | None = None
            for row in rows(root / ROWS[name] / "1/model.onnx", given):
                called = " ".join(filter(None, (ROWS[name], row.precision, "on", row.provider, row.options)))
                if row.reason:
                    yield Line(f"{called}: refused: {row.reason}", [])
                    continue
                base = base or row
                compared = [Compared("images/s: bare session, largest batch", row.rate, row.bare)]
                if row is not base:
                    compared.append(Compared("images/s: served on the first", row.rate, base.rate))
                    compared.append(Compared("% of best classes alike: all", row.agreement * 100, 100.0))
                if row.gpu_mb is not None:
                    called += f", {row.gpu_mb:,.0f} MB of GPU memory"
                yield Line(called, compared, [replace(outcome, images=row.images) for outcome in row.served])
            step(1.0)


ROWS = {f"{model} on each provider at hand, 8 at once": model for model in ("lenet5-mnist", "resnet50")}
GROUPS = [Group(list(ROWS), lambda plan: 3 * plan.rounds * (plan.seconds * 4 / 3 + 2) + 10, lines)]


def main() -> None:
    """Print a table a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, help="repository with resnet50 and lenet5-mnist; written if it is new")
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--images", type=int, default=4, help="a call")
    given = parser.parse_args()
    console = Console(width=130)
    with tempfile.TemporaryDirectory() as folder:
        root = given.models or Path(folder) / "models"
        models(root)
        for path in sorted(root / model / "1/model.onnx" for model in ROWS.values()):
            title = f"{path.parents[1].name}, {check_runtime()}"
            table = Table(
                "provider",
                "computes",
                "images/s",
                "bare",
                "ratio",
                "p50 ms",
                "p99 ms",
                "agrees",
                "x cpu",
                "GPU MB",
                title=title,
            )
            base = 0.0
            for row in rows(path, given):
                base = base or row.rate
                if row.reason:
                    table.add_row(f"{row.provider} {row.options}", f"refused: {row.reason}")
                    continue
                table.add_row(
                    f"{row.provider} {row.options}",
                    f"{row.precision} on {row.device}",
                    f"{row.rate:.1f}",
                    f"{row.bare:.1f}",
                    f"{row.rate / row.bare:.2f}",
                    *(f"{statistics.median(outcome.milliseconds(p) for outcome in row.served):.1f}" for p in (50, 99)),
                    f"{row.agreement:.1%}",
                    f"{row.rate / base:.2f}",
                    "" if row.gpu_mb is None else f"{row.gpu_mb:,.0f}",
                )
            console.print(table)


if __name__ == "__main__":
    main()
