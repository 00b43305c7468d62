"""A real Prometheus scrapes a running server: every query of the dashboard returns data."""

import json
import re
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from service.client import Client
from service.errors import SaccadeError
from tests.deploy.objects import DEPLOY, tool
from tests.fakes import WAIT
from tests.onnx_models import pictures
from tests.processes import ServerProcess

SECONDS = 60.0
CONFIGURATION = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [rules.yaml]
scrape_configs:
  - job_name: saccade
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


def queries() -> dict[str, str]:
    """Return every query of the dashboard, by panel and number, with its variables filled in."""
    found = {}
    for panel in json.loads((DEPLOY / "monitoring/dashboard.json").read_text())["panels"]:
        for target in panel.get("targets", []):
            expr = re.sub(r"\$(job|model)\b", ".*", target["expr"]).replace("$__rate_interval", "30s")
            found[f"{panel['title']} {target['refId']}"] = expr
    return found


def ask(port: int, query: str) -> list[Any]:
    """Return what Prometheus answers to a query."""
    text = urllib.parse.urlencode({"query": query})
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query?{text}", timeout=WAIT) as answer:
        return list(json.load(answer)["data"]["result"])


def free_port() -> int:
    """Return a port that was free a moment ago: Prometheus cannot say which one it chose."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@contextmanager
def prometheus(folder: Path, metrics_port: int) -> Iterator[int]:
    """Run Prometheus with the rules on a free port, and return that."""
    port = free_port()
    (folder / "prometheus.yaml").write_text(CONFIGURATION.format(port=metrics_port))
    # The recording rules run each 30 s, which a test need not wait for.
    rules = (DEPLOY / "monitoring/rules.yaml").read_text()
    (folder / "rules.yaml").write_text(rules.replace("interval: 30s", "interval: 1s"))
    command = [tool("prometheus"), f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder}/data"]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
        try:
            yield port
        finally:
            process.terminate()
            process.wait(WAIT)


@contextmanager
def load(address: str) -> Iterator[None]:
    """Call all the time while the block runs: good pictures, a bad one, deadlines that cannot be met."""
    over = threading.Event()

    def call() -> None:
        with Client(address) as client:
            while not over.wait(0.01):
                client.classify(*pictures(2))
                with suppress(SaccadeError):
                    client.classify(b"no picture")
                with suppress(SaccadeError):
                    client.classify(*pictures(8), timeout=0.002)

    threads = [threading.Thread(target=call, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join(WAIT)


@pytest.mark.timeout(110)
@pytest.mark.parametrize("workers", [1, 2])
def test_every_query_of_the_dashboard_returns_data(workers: int, repository: Path, tmp_path: Path) -> None:
    """After a short load, with a version that cannot be loaded, no panel stays empty; but workers' without workers."""
    tool("prometheus")
    (repository / "linear/2").mkdir()
    (repository / "linear/2/model.onnx").write_bytes(b"no model")
    folder = tmp_path / "prometheus"
    folder.mkdir()
    # Small enough that some calls find the queue full.
    flags = ("--max-batch-size", "1", "--queue-size", "8", "--workers", str(workers))
    with (
        ServerProcess(repository, *flags) as server,
        prometheus(folder, server.metrics_port) as port,
        load(server.address),
    ):
        missing = {panel: query for panel, query in queries().items() if workers > 1 or "saccade_worker" not in query}
        end = time.monotonic() + SECONDS
        while missing and time.monotonic() < end:
            with suppress(OSError):  # it does not listen yet
                missing = {panel: query for panel, query in missing.items() if not ask(port, query)}
            time.sleep(0.5)
        assert not missing, (folder / "prometheus.log").read_text()[-2000:]
        firing = {alert["metric"]["alertname"] for alert in ask(port, 'ALERTS{alertstate="firing"}')}
        assert "SaccadeSelfTestFailed" in firing
