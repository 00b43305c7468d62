"""`saccade bench` as its users type it."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from service import image
from service.load import scrape
from service.load.cli import bench as bench_command
from tests.foreign_models import write_foreign
from tests.onnx_models import pictures, write_model
from tests.processes import LOADED, SACCADE, ServerProcess, run

pytestmark = pytest.mark.timeout(300)  # processes that start, one after the other, on a machine that may be busy

QUICK = ("--duration", "0.6", "--warm-up", "0.1")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Return a server with a model of its own kind, and one that takes float NCHW."""
    root = tmp_path_factory.mktemp("bench") / "models"
    write_model(root / "linear" / "1")
    write_foreign(root / "foreign" / "1", batch="N")
    with ServerProcess(root, "--default-model", "linear") as started:
        yield started


def bench(server: ServerProcess, *arguments: str, scheme: str = "saccade") -> dict[str, Any]:
    """Run a quick bench that must end well, and return its JSON."""
    metrics = f"http://127.0.0.1:{server.metrics_port}/metrics"
    target = f"{scheme}://{server.address}"
    done = run("bench", target, *QUICK, "--metrics-url", metrics, "--json", *arguments)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_closed_and_open(server: ServerProcess) -> None:
    """Each number of callers and each rate is a row, with the client's and the server's view."""
    found = bench(server, "--concurrency", "1,4", "--rate", "50", "--deadline-ms", "5000")
    assert [row["load"] for row in found["rows"]] == ["1 at once", "4 at once", "50/s"]
    for row in found["rows"]:
        assert not row["errors"]
        assert 0 < row["latency_ms"]["p50"] <= row["latency_ms"]["p99"] <= row["latency_ms"]["max"]
        assert row["server"]["images"] >= row["answered"]
        assert row["server"]["stages"]["inference"] > 0
        assert row["server"]["batch"] >= 1


@pytest.mark.parametrize(("model", "stream"), [("linear", ("--stream",)), ("foreign", ())])
def test_open_inference_protocol(server: ServerProcess, model: str, stream: tuple[str, ...]) -> None:
    """Models that take uint8 or float NCHW are measured by what their metadata say, in calls and on streams."""
    found = bench(server, "--model", model, "--rate", "30", "--images", "2", "--top-k", "2", *stream, scheme="oip")
    [row] = found["rows"]
    assert not row["errors"], row["error_details"]
    assert row["answered"] > 3
    assert found["content"] == {"linear": "drawn UINT8 [2, 8, 8, 1]", "foreign": "drawn FP32 [2, 3, 8, 8]"}[model]


def test_pictures_of_a_folder(server: ServerProcess, tmp_path: Path) -> None:
    """Picture files are sent by the Open Inference Protocol too."""
    for number, picture in enumerate(pictures(3)):
        (tmp_path / f"{number}.png").write_bytes(image.encode_png(picture))
    found = bench(
        server, "--model", "linear", "--pictures", str(tmp_path), "--rate", "30", "--images", "2", scheme="oip"
    )
    [row] = found["rows"]
    assert not row["errors"], row["error_details"]
    assert row["server"]["images"] >= 2 * row["answered"] > 6
    assert found["content"].startswith("3 files")


def test_drawn_pictures_on_a_stream_from_two_processes(server: ServerProcess) -> None:
    """Drawn PNG files of any size go over streams of several processes."""
    found = bench(
        server, "--encoded", "--size", "20x30", "--stream", "--rate", "40", "--processes", "2", "--top-k", "1"
    )
    [row] = found["rows"]
    assert not row["errors"], row["error_details"]
    assert row["answered"] > 10


def test_objective_is_the_exit_code(server: ServerProcess) -> None:
    """The verdict is printed; exit 0 if it is met, 1 if not."""
    quick = ("bench", server.address, "--metrics-url", "off", "--duration", "0.5", "--warm-up", "0.1", "--rate", "20")
    met = run(*quick, "--slo", "p50<30s,errors<50%")
    assert met.returncode == 0, met.stderr
    assert "objective met: p50<30000ms is met" in met.stdout
    missed = run(*quick, "--slo", "p50<0.001ms")
    assert missed.returncode == 1
    assert "objective MISSED: p50<0.001ms is missed" in missed.stdout
    assert not missed.stderr


def test_find_max(server: ServerProcess) -> None:
    """The search ends with a rate that was tried and met the objective; within the highest that may be tried."""
    found = bench(
        server, "--find-max", "--slo", "p99<20s,errors<99%", "--max-rate", "40", "--rate", "20", "--seed", "5"
    )
    assert found["max_rate"] in {row["rate"] for row in found["rows"] if row["met"]}
    assert found["max_rate"] <= 40


def test_until_stable(server: ServerProcess) -> None:
    """With a generous bound three rounds are enough, and the row says how far they differ."""
    [row] = bench(server, "--rate", "30", "--until-stable", "10000")["rows"]
    assert row["seconds"] == pytest.approx(1.8, abs=0.1)
    assert 0 <= row["spread"] < 100


def test_files(server: ServerProcess, tmp_path: Path) -> None:
    """--csv, --plot and --compare do what they say."""
    old, table, plot = tmp_path / "old.json", tmp_path / "table.csv", tmp_path / "plot.png"
    old.write_text(json.dumps(bench(server, "--rate", "20,30")))
    files = ("--csv", str(table), "--plot", str(plot), "--compare", str(old))
    compared = bench(server, "--rate", "20,30", *files)["compared"]
    assert len(table.read_text().splitlines()) == 3
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert compared["30/s"]["p50"] > 0


def test_files_where_nobody_reads_what_is_printed(server: ServerProcess, tmp_path: Path) -> None:
    """What was measured is in its file though the reader of standard output has gone, as `| head` goes."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [*SACCADE, "bench", server.address, *QUICK, "--rate", "20", "--csv", str(tmp_path / "table.csv")]
    with open(writer, "wb") as output:  # noqa: PTH123 - a descriptor
        subprocess.run(command, stdout=output, stderr=subprocess.DEVNULL, check=False, timeout=60)
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 2


def test_nobody_there() -> None:
    """A server that is not there is one line and exit 1."""
    done = run("bench", "127.0.0.1:9", *QUICK)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "127.0.0.1:9" in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--slo", "p99<50"), "--slo"),
        (("--find-max",), "--slo"),
        (("--rate", "0"), "--rate"),
        (("--concurrency", "0.5"), "--concurrency"),
        (("--concurrency", "1.5"), "1.5 is no whole number"),
        (("--concurrency", "nan"), "nan is not between 1 and 100,000"),
        (("--rate", "inf"), "1,000,000"),
        (("--duration", "inf"), "--duration inf"),
        (("--find-max", "--slo", "p99<1s", "--max-rate", "inf"), "--max-rate inf"),
        (("--seed", "-1"), "--seed"),
        (("--size", "big"), "--size"),
        (("http://localhost:1",), "oip://"),
        (("localhost:99999",), "65535"),
        (("--address", "localhost:1,localhost:2"), "one server"),
        (("--csv", "nowhere/bench.csv"), "--csv"),
        (("--plot", "nowhere/bench.png"), "--plot"),
        (("--plot", "bench.txt"), ".png"),
    ],
)
def test_used_wrongly(arguments: tuple[str, ...], said: str) -> None:
    """What cannot be understood is exit 2, naming the option."""
    application = typer.Typer()
    application.command()(bench_command)
    done = CliRunner().invoke(application, arguments)
    assert done.exit_code == 2
    assert said in done.stderr


def test_unknown_model(server: ServerProcess) -> None:
    """A model that is not there is one line that names those that are."""
    done = run("bench", server.address, "--model", "nobody")
    assert done.returncode == 1
    assert "linear 1" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture
def as_in_a_terminal() -> Iterator[None]:
    """Let processes that the test starts end by Ctrl-C, which a shell's background jobs ignore, and all below them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("as_in_a_terminal")
def test_interrupt_gives_what_was_measured(server: ServerProcess) -> None:
    """Ctrl-C ends a long load with a table of what was measured so far, and no stack."""
    before = _calls(server)
    command = [*SACCADE, "bench", server.address, "--metrics-url", "off", "--rate", "50", "--duration", "600"]
    with subprocess.Popen(
        [*command, "--warm-up", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    ) as process:
        deadline = time.monotonic() + LOADED
        while _calls(server) < before + 30:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        signal_all(process.pid)
        out, error = process.communicate(timeout=LOADED)
    assert "interrupted after" in out
    assert "50/s" in out
    assert "Traceback" not in error
    assert process.returncode == 0


def test_server_that_dies(repository: Path) -> None:
    """A server that dies mid-run is reported with the seconds in which it was gone, and no stack."""
    with ServerProcess(repository) as server:
        command = [*SACCADE, "bench", server.address, "--metrics-url", "off", "--rate", "50", "--duration", "3"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            deadline = time.monotonic() + LOADED
            while _calls(server) < 60:  # the warm-up is over
                assert time.monotonic() < deadline
                time.sleep(0.02)
            server.process.kill()
            out, error = process.communicate(timeout=LOADED)
    assert "UNAVAILABLE in second" in out
    assert "Traceback" not in error + out
    assert process.returncode == 0


def signal_all(group: int) -> None:
    """Send what Ctrl-C sends, to whom a terminal sends it."""
    os.killpg(group, signal.SIGINT)


def _calls(server: ServerProcess) -> float:
    samples = scrape.look(f"http://127.0.0.1:{server.metrics_port}/metrics")
    return sum(value for (name, _), value in samples.items() if name == "saccade_requests_total")
