"""Versions change under load, in a server of its own and through the shipped client: nobody notices."""

import json
import shutil
import urllib.request
from pathlib import Path

from service.client import Client
from tests.onnx_models import pictures, write_model
from tests.processes import ServerProcess, run
from tests.reloading import Callers, reload

POLL = ("--poll-seconds", "0.1")


def statuses(server: ServerProcess) -> set[str]:
    """Return the statuses that Classify ended with."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics") as page:
        lines = page.read().decode().splitlines()
    return {line.split('code="')[1].split('"')[0] for line in lines if line.startswith("saccade_requests_total{code")}


def test_reloads_under_load(repository: Path) -> None:
    """Of the calls of 16 callers none fails, nor has to be repeated, while versions are published, changed in place,
    removed, and fail their self-test.
    """
    with ServerProcess(repository, *POLL, "--keep-versions", "1") as server:
        with Callers(server.address, pause=0.005) as callers:
            reload(server, repository, 2)
            reload(server, repository, 3, wrong=True)
            reload(server, repository, 3)
            reload(server, repository, 3)
            reload(server, repository, 3, wrong=True)
            shutil.rmtree(repository / "linear" / "3")
            assert server.wait_for("model ready")["version"] == 2
            reload(server, repository, 4)
        with Client(server.address) as client:
            assert client.classify(pictures(1)[0]).version == "4"
        assert callers.met.failures == {}
        assert set(callers.met.versions) <= {"1", "2", "3", "4"}
        assert statuses(server) == {"OK"}


def test_replace_under_load(repository: Path) -> None:
    """With `--reload replace` callers hear UNAVAILABLE during a load, and the client repeats their calls."""
    with ServerProcess(repository, *POLL, "--keep-versions", "1", "--reload", "replace") as server:
        with Callers(server.address, count=4, pause=0.005) as callers:
            reload(server, repository, 2)
            reload(server, repository, 3, wrong=True)
            assert server.wait_for("model ready")["version"] == 2
        assert callers.met.failures == {}


def test_models_shows_a_failed_version(repository: Path) -> None:
    """`saccade models` shows a version that was published and failed, why, and that the one before is served."""
    with ServerProcess(repository, *POLL) as server:
        reload(server, repository, 2, wrong=True)
        failed, served = json.loads(run("models", "--address", server.address, "--json").stdout)
        assert (failed["state"], served["state"], served["default"]) == ("FAILED", "READY", True)
        assert "golden sample" in failed["reason"]


def test_models_come_and_go(repository: Path) -> None:
    """A model that is published is served, and one whose folder is removed is not, without a restart."""
    with ServerProcess(repository, *POLL) as server, Client(server.address) as client:
        write_model(repository / "other" / "1")
        assert server.wait_for("model ready")["model"] == "other"
        assert client.ready("other")
        shutil.rmtree(repository / "linear")
        assert server.wait_for("model removed")["model"] == "linear"
        assert client.ready()
        assert [entry.name for entry in client.models()] == ["other"]
