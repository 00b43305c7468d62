"""The demo, run once for all tests that look at what it did."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.processes import run


@dataclass(frozen=True)
class Demo:
    """What the demo printed, and the folder that it ran in."""

    done: subprocess.CompletedProcess[str]
    folder: Path


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """Return the demo's outcome, as `make demo` runs it once everything is installed."""
    folder = tmp_path_factory.mktemp("demo")
    return Demo(run("demo", cwd=folder, seconds=300), folder)
