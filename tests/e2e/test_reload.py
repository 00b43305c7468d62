"""Versions change under load, in a server of its own and through the shipped client: nobody notices."""

import itertools
import json
import shutil
from pathlib import Path

import pytest

from service.client import Client
from tests.fakes import WAIT
from tests.onnx_models import write_model
from tests.processes import ServerProcess, run
from tests.reloading import Callers, Publisher, follow, statuses

POLL = ("--poll-seconds", "0.1", "--keep-versions", "1")
pytestmark = pytest.mark.timeout(300)  # processes that start and reload on a machine that may be busy


@pytest.mark.parametrize("external", [False, True], ids=["one file", "external weights"])
def test_reloads_under_load(tmp_path: Path, *, external: bool) -> None:
    """Of the calls of 16 callers none fails, nor has to be repeated, while versions are published, copied slowly,
    replaced, overwritten in place, removed, and fail.

    The short form of `python -m tests.benchmarks.reloads`.
    """
    publisher = Publisher(tmp_path / "lenet5", pause=0.05, external=external)
    with ServerProcess(tmp_path, *POLL) as server:
        with Callers(server.address, pause=0.01) as callers:
            for change in itertools.islice(publisher.changes(), 10):
                follow(server, change)
        assert callers.met.failures == {}
        assert statuses(server).keys() == {"OK"}


def test_replace_under_load(tmp_path: Path) -> None:
    """With `--reload replace` callers hear UNAVAILABLE during a load, and the client repeats their calls."""
    publisher = Publisher(tmp_path / "lenet5", pause=0.05)
    with ServerProcess(tmp_path, *POLL, "--reload", "replace") as server:
        with Callers(server.address, count=4, pause=0.01) as callers:
            for change in itertools.islice(publisher.changes(), 5):
                follow(server, change)
        assert callers.met.failures == {}


def test_models_shows_a_failed_version(tmp_path: Path) -> None:
    """`saccade models` shows a version that was published and failed, why, and that the one before is served."""
    publisher = Publisher(tmp_path / "lenet5", pause=0)
    with ServerProcess(tmp_path, *POLL) as server:
        follow(server, publisher.fail("golden sample"))
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
        assert client.ready(timeout=WAIT)
        assert [entry.name for entry in client.models()] == ["other"]
