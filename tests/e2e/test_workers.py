"""Several workers on one port, as processes: what they share, who takes whose place, and how they end."""

import math
import os
import re
import shutil
import signal
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from service import cores
from service.client import Client
from tests.fakes import WAIT
from tests.onnx_models import pictures, write_model
from tests.processes import LOADED, ServerProcess, mapped_files, run
from tests.server.test_drain import Callers
from tests.triton import TritonClient

pytestmark = pytest.mark.timeout(300)  # processes that start, one after the other, on a machine that may be busy

CLIENTS = 8
"""Each has a connection of its own: that all of them meet the same one of two workers happens once in 128 times."""
MASK = os.sched_getaffinity(0)
FREE = ("--host", "127.0.0.1", "--grpc-port", "0", "--metrics-port", "0")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model repository with one small, right model: linear, version 1."""
    root = tmp_path_factory.mktemp("workers") / "models"
    write_model(root / "linear" / "1")
    return root


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[ServerProcess]:
    """Return two workers and their supervisor, the same ones for all tests that leave them serving."""
    with ServerProcess(repository, "--workers", "2", "--allow-repository-control") as server:
        yield server


@pytest.fixture
def clients(server: ServerProcess) -> Iterator[list[Client]]:
    """Return clients with a connection each."""
    clients = [Client(server.address) for _ in range(CLIENTS)]
    yield clients
    for client in clients:
        client.close()


def everybody(server: ServerProcess) -> list[psutil.Process]:
    """Return the processes of the workers and of the stand-by, which is waited for."""
    while not any(line["event"] == "stand-by ready" and psutil.pid_exists(line["pid"]) for line in server.lines):
        server.wait_for("stand-by ready")
    return psutil.Process(server.process.pid).children()


def pinned(worker: psutil.Process) -> set[int]:
    """Return the cores that some threads of a process are bound to alone."""
    masks = []
    for thread in worker.threads():
        with suppress(ProcessLookupError):  # it ended just now
            masks.append(os.sched_getaffinity(thread.id))
    return {core for mask in masks if len(mask) == 1 for core in mask}


def metric(server: ServerProcess, sample: str) -> float:
    """Return what the merged metrics say of a sample, written as in the exposition; 0 where there is none."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=WAIT) as answer:
        text = answer.read().decode()
    found = [line.rsplit(" ", 1)[1] for line in text.splitlines() if line.rsplit(" ", 1)[0] == sample]
    return float(found[0]) if found else 0.0


def test_supervisor_is_light(server: ServerProcess) -> None:
    """The supervisor has neither gRPC nor ONNX Runtime nor numpy in its memory, and does not listen for calls."""
    files = "\n".join(mapped_files(server.process.pid))
    assert not re.search("/(grpc|onnxruntime|numpy)/", files)
    listening = [
        each.laddr.port for each in psutil.Process(server.process.pid).net_connections() if each.status == "LISTEN"
    ]
    assert listening == [server.metrics_port]
    ports = [
        each.laddr.port for worker in server.workers() for each in worker.net_connections() if each.status == "LISTEN"
    ]
    assert ports == [server.grpc_port] * 2


def test_metrics_are_merged(server: ServerProcess, clients: list[Client]) -> None:
    """One endpoint counts the calls of all workers, each once, without a label that tells them apart."""
    images = 'saccade_images_total{model="linear"}'
    calls = 'saccade_requests_total{code="OK",method="Classify",model="linear"}'
    before = metric(server, images), metric(server, calls)
    for client in clients:
        client.classify(*pictures(3))
    assert (metric(server, images), metric(server, calls)) == (before[0] + 3 * CLIENTS, before[1] + CLIENTS)
    assert metric(server, 'saccade_queue_depth{model="linear",version="1"}') == 0
    assert metric(server, 'saccade_model_ready{model="linear"}') == 1
    assert metric(server, "saccade_workers") == 2
    assert metric(server, "process_resident_memory_bytes") > 2 * 30e6
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=WAIT) as answer:
        assert "pid=" not in answer.read().decode()


def test_no_call_fails_when_workers_are_killed(server: ServerProcess, clients: list[Client]) -> None:
    """SIGKILL of a worker under sixteen callers fails no call; the next one takes its place and counts on."""
    turn = iter(range(10**9))
    callers = Callers(lambda: clients[next(turn) % CLIENTS])
    restarts = metric(server, 'saccade_worker_restarts_total{reason="crashed"}')
    for kill in range(2):
        callers.wait_for(100)
        before = metric(server, 'saccade_images_total{model="linear"}')
        server.workers()[0].kill()
        assert server.wait_for("worker ended")["how"] == "by SIGKILL"
        server.wait_for("worker listening")
        assert metric(server, 'saccade_worker_restarts_total{reason="crashed"}') == restarts + kill + 1
        assert metric(server, "saccade_workers") == 2
        assert metric(server, 'saccade_images_total{model="linear"}') >= before
    callers.wait_for(100)
    callers.stop()
    assert callers.failures == []


def test_standby_takes_a_place(server: ServerProcess, repository: Path) -> None:
    """The stand-by becomes the worker that was killed: on its core, with the versions that there are by then."""
    standby = next(each for each in everybody(server) if each not in server.workers())
    first = server.workers()[0]
    home = pinned(first)
    write_model(repository / "linear" / "2")
    first.kill()
    listening = server.wait_for("worker listening")
    assert listening["pid"] == standby.pid
    loaded = [line for line in server.lines if line["event"] == "model ready" and line["worker"] == listening["worker"]]
    assert 2 in {line["version"] for line in loaded}
    assert pinned(standby) == home
    shutil.rmtree(repository / "linear" / "2")


def test_stopped_worker_is_replaced(server: ServerProcess, clients: list[Client]) -> None:
    """A worker that was stopped answers nobody; it is killed and replaced, and calls are answered again."""
    hung = metric(server, 'saccade_worker_restarts_total{reason="hung"}')
    stopped = server.workers()[0]
    stopped.suspend()
    told = server.wait_for("worker hangs")
    assert told["pid"] == stopped.pid
    assert server.wait_for("worker ended")["reason"] == "hung"
    server.wait_for("worker listening")
    assert metric(server, 'saccade_worker_restarts_total{reason="hung"}') == hung + 1
    assert len(server.workers()) == 2
    for client in clients:
        client.classify(*pictures(1))


def test_sigterm_to_one_worker_drains_it(server: ServerProcess, clients: list[Client]) -> None:
    """A worker that gets SIGTERM itself drains, and is replaced."""
    callers = Callers(lambda: clients[0])
    callers.wait_for(20)
    first, _ = server.workers()
    first.terminate()
    ended = server.wait_for("worker ended")
    assert (ended["how"], ended["reason"]) == ("with exit code 0", "left")
    server.wait_for("worker listening")
    callers.wait_for(20)
    callers.stop()
    assert callers.failures == []


def test_taken_port(server: ServerProcess, repository: Path) -> None:
    """A port on which workers listen is taken for one server, as it is for more that would share it (see test_hold)."""
    command = ["serve", "--repository", str(repository), "--host", "127.0.0.1", "--metrics-port", "0"]
    done = run(*command, "--grpc-port", str(server.grpc_port))
    assert done.returncode == 1
    assert f"saccade: --grpc-port {server.grpc_port} on 127.0.0.1 cannot be had" in done.stderr


def test_first_worker_cannot_serve(tmp_path: Path) -> None:
    """What keeps the workers from serving is said once, and ends the command with 1."""
    done = run("serve", "--workers", "2", "--repository", str(tmp_path / "nowhere"), *FREE)
    assert done.returncode == 1
    assert len([line for line in done.stderr.splitlines() if line.startswith("saccade: --repository")]) == 1
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(len(MASK) < 2 or cores.home("auto") is None, reason="pinning shows only on two cores or more")
def test_each_worker_has_its_core(server: ServerProcess) -> None:
    """GRPC's threads of each worker are on one core, and the workers' cores are not the same."""
    assert len(set().union(*(pinned(worker) for worker in server.workers()))) == 2
    assert all(len(pinned(worker)) == 1 for worker in server.workers())


@pytest.fixture
def triton(server: ServerProcess) -> Iterator[TritonClient]:
    """Return a client of Triton's own, which sticks to one of the workers."""
    client = TritonClient(server.address)
    yield client
    client.close()


def test_changes_reach_every_worker(
    server: ServerProcess, clients: list[Client], triton: TritonClient, repository: Path
) -> None:
    """What one worker is asked to load or to unload, all of them do, and who takes a place later does as they do."""
    write_model(repository / "another" / "1")
    assert triton.call("load_model", model_name="another") is None
    assert all({entry.name for entry in client.models()} == {"another", "linear"} for client in clients)
    assert triton.call("unload_model", model_name="linear") is None
    assert all({entry.name for entry in client.models()} == {"another"} for client in clients)
    server.workers()[0].kill()
    server.wait_for("worker listening")
    both = [Client(server.address) for _ in range(CLIENTS)]
    assert all({entry.name for entry in client.models()} == {"another"} for client in both)
    for client in both:
        client.close()
    assert metric(server, 'saccade_model_ready{model="another"}') == 1
    assert math.isnan(metric(server, 'saccade_model_ready{model="linear"}'))
    assert [triton.call("unload_model", model_name="another"), triton.call("load_model", model_name="linear")] == [
        None
    ] * 2
    shutil.rmtree(repository / "another")


def test_a_change_that_fails(server: ServerProcess, triton: TritonClient, repository: Path) -> None:
    """Who asks for what cannot be done hears why, as from one server."""
    write_model(repository / "linear" / "2", wrong_by=0.1)
    answer = triton.call("load_model", model_name="linear")
    assert answer["status"] == "StatusCode.UNAVAILABLE"
    assert answer["error"].startswith("failed to load version 2 of 'linear'")
    assert triton.call("load_model", model_name="nothing")["status"] == "StatusCode.NOT_FOUND"
    shutil.rmtree(repository / "linear" / "2")
    assert triton.call("load_model", model_name="linear") is None


def test_statistics_are_of_all(server: ServerProcess, clients: list[Client], triton: TritonClient) -> None:
    """ModelStatistics counts what all workers did, whichever is asked."""

    def counted() -> tuple[int, int]:
        [found] = triton.call("get_inference_statistics", model_name="linear")["model_stats"]
        return int(found["inference_count"]), int(found["inference_stats"]["success"]["count"])

    images, calls = counted()
    for client in clients:
        client.classify(*pictures(3))
    assert counted() == (images + 3 * CLIENTS, calls + CLIENTS)


def test_sigterm_drains_all(repository: Path) -> None:
    """SIGTERM to the supervisor drains every worker; it ends with 0, and nothing is left."""
    with ServerProcess(repository, "--workers", "2") as server:
        with Client(server.address) as client:
            client.classify(pictures(1)[0])
        all_of_them = everybody(server)
        server.terminate()
        assert server.process.wait(LOADED) == 0
        assert not any(worker.is_running() for worker in all_of_them)
        server.reader.join(LOADED)
        assert [line["event"] for line in server.lines if line.get("worker") is not None].count("stopped") == 2


def test_second_sigterm_ends_all(repository: Path) -> None:
    """A second SIGTERM ends supervisor and workers at once."""
    with ServerProcess(repository, "--workers", "2", "--drain-delay", "3600") as server:
        all_of_them = everybody(server)
        server.terminate()
        for _ in range(3):  # the supervisor's line, and one of each worker
            server.wait_for("draining")
        server.terminate()
        assert server.process.wait(LOADED) == -signal.SIGTERM
        assert not psutil.wait_procs(all_of_them, LOADED)[1]


def test_workers_end_without_supervisor(repository: Path) -> None:
    """Workers whose supervisor is gone drain and end."""
    with ServerProcess(repository, "--workers", "2") as server:
        all_of_them = everybody(server)
        server.process.kill()
        assert not psutil.wait_procs(all_of_them, LOADED)[1]
        server.reader.join(LOADED)
        assert [line["event"] for line in server.lines].count("stopped") == 2
