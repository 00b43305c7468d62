"""The whole path in one command, told as it goes: train, export, serve as a process of its own, classify, drain."""

import json
import queue
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from export import data, recipes
from export.cli_train import run_training
from export.onnx_export import encode
from export.release import release, summary
from service.client import Answer, Client
from service.errors import SetupError

RECIPE = "lenet5-digits"
CALLERS = 8
READY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the demo's server listens."""

    grpc: int
    metrics: int


def show(repository: Path, run: Path) -> None:
    """Run the demo; the model goes to `repository`, checkpoint, log and pictures to `run`."""
    console = Console()
    recipe = recipes.find(RECIPE)
    console.rule("1. Train LeNet-5 on scikit-learn's 1,797 handwritten digits")
    run_training(recipe, run, None)
    console.rule("2. Export to ONNX, verify against the trained network, publish")
    version, parity = release(run, repository, RECIPE)
    console.print(f"published {version}: {summary(parity)}")
    console.rule("3. Serve it, and classify digits that training never saw")
    test = data.load(recipe.data, seed=recipe.seed).test
    pictures = _write_pictures(test, run / "pictures")
    with _server(repository, run / "server.log") as ports, Client(f"localhost:{ports.grpc}") as client:
        console.print(f"ready: gRPC on port {ports.grpc}, metrics on port {ports.metrics}")
        with ThreadPoolExecutor(CALLERS) as callers:
            asked = callers.map(lambda path: client.classify(path, model=RECIPE, top_k=3), pictures)
            answers = list(track(asked, "classifying", total=len(pictures), console=console))
        _print_answers(console, pictures, test, answers)
        _print_metrics(console, ports)
    console.print("server drained and stopped")
    console.rule("Next")
    saccade = own_command()
    console.print(
        f"{saccade} serve --repository {repository}\n"
        f"{saccade} classify {pictures[0]} {pictures[1]}      (in another terminal)\n"
        f"{saccade} models\n"
        f"curl -s localhost:8002/metrics | grep saccade_",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def own_command(python: Path = Path(sys.executable), search: str | None = None) -> str:
    """Return how a shell in this folder calls the `saccade` of this environment.

    Args:
        python: the environment's interpreter, beside which it lies.
        search: where a shell looks for programs; None: what PATH says.
    """
    own = python.with_name("saccade")
    found = shutil.which("saccade", path=search)
    if not own.is_file() or (found and own.samefile(found)):
        return "saccade"
    here = Path.cwd()
    return shlex.quote(str(own.relative_to(here) if own.is_relative_to(here) else own))


def _write_pictures(test: data.Pictures, folder: Path) -> list[Path]:
    """Write the held-out pictures as PNG files named by their label and number."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, (encoded, label) in enumerate(zip(encode(test), test.labels, strict=True)):
        paths.append(folder / f"{label}-{number:03}.png")
        paths[-1].write_bytes(encoded)
    return paths


@contextmanager
def _server(repository: Path, log: Path) -> Iterator[Ports]:
    """Start the server as a process, wait until it is READY, and drain it in the end."""
    command = [sys.executable, "-m", "service.cli", "serve", "--repository", str(repository), "--host", "127.0.0.1"]
    command += ["--grpc-port", "0", "--metrics-port", "0", "--drain-delay", "0", "--log-format", "json"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)  # noqa: S603 - our own command
    ready: queue.Queue[Ports | None] = queue.Queue()
    reader = threading.Thread(target=_follow, args=(process, log, ready), daemon=True)
    reader.start()
    try:
        ports = ready.get(timeout=READY_SECONDS)
        if ports is None:
            raise SetupError(f"the server did not become ready; its log is {log}")
        yield ports
    except queue.Empty:
        raise SetupError(f"the server was not ready after {READY_SECONDS:g} s; its log is {log}") from None
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        reader.join()
    if process.returncode != 0:
        raise SetupError(f"the server ended with exit code {process.returncode}; its log is {log}")


def _follow(process: subprocess.Popen[str], log: Path, ready: "queue.Queue[Ports | None]") -> None:
    """Copy the server's log lines to a file and pass on the ports that it reports; None when it ends without."""
    with log.open("w") as file:
        for line in process.stderr or ():
            file.write(line)
            file.flush()
            entry = json.loads(line) if line.startswith("{") else {}
            if entry.get("event") == "ready":
                ready.put(Ports(entry["grpc_port"], entry["metrics_port"]))
    ready.put(None)


def _print_answers(console: Console, pictures: list[Path], test: data.Pictures, answers: list[Answer]) -> None:
    """Print one picture of each class, and the accuracy over all of them."""
    table = Table("picture", "true label", "1.", "2.", "3.")
    for label in np.unique(test.labels):
        index = int(np.flatnonzero(test.labels == label)[0])
        best = answers[index].classifications[0]
        table.add_row(pictures[index].name, str(label), *(f"{entry.label}  {entry.probability:.1%}" for entry in best))
    console.print(table)
    right = sum(answer.classifications[0][0].index == label for answer, label in zip(answers, test.labels, strict=True))
    console.print(f"accuracy over {len(answers)} held-out pictures: {right / len(answers):.2%}")


def _print_metrics(console: Console, ports: Ports) -> None:
    """Print the few metrics that matter, from the server's own page."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy could not reach this machine
    with direct.open(f"http://localhost:{ports.metrics}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()

    def total(start: str) -> float:
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(start))

    def mean(name: str, labels: str = "") -> float:
        return total(f"{name}_sum{labels}") / max(1.0, total(f"{name}_count{labels}"))

    table = Table("metric", "value")
    table.add_row("saccade_requests_total", f"{total('saccade_requests_total'):.0f}")
    table.add_row("saccade_images_total", f"{total('saccade_images_total'):.0f}")
    table.add_row("saccade_batch_size, mean", f"{mean('saccade_batch_size'):.2f}")
    for stage in ("decode", "queue", "inference"):
        seconds = mean("saccade_stage_seconds", f'{{model="{RECIPE}",stage="{stage}"}}')
        table.add_row(f"saccade_stage_seconds {stage}, mean", f"{seconds * 1000:.2f} ms")
    table.add_row("process_resident_memory_bytes", f"{total('process_resident_memory_bytes') / 1e6:.0f} MB")
    console.print(table)
