"""The demo, run once for all tests that look at what it did."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.processes import run

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Demo:
    """What the demo printed, and the folder that it ran in."""

    done: subprocess.CompletedProcess[str]
    folder: Path


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """Return the demo's outcome, as `make demo` runs it once all is installed, behind a proxy that is not there."""
    folder = tmp_path_factory.mktemp("demo")
    proxy = {"http_proxy": "http://127.0.0.1:9", "no_proxy": ""}
    return Demo(run("demo", cwd=folder, seconds=300, environment=proxy), folder)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the wheel of this tree was installed into, alone."""
    built, installed = tmp_path_factory.mktemp("built"), tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", built], cwd=ROOT, check=True)
    [file] = built.glob("saccade-*.whl")
    subprocess.run([*pip, "install", "--quiet", "--no-index", "--no-deps", "--target", installed, file], check=True)
    return installed
