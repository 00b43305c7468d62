"""The README does what it says."""

import os
import re
import shlex
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.conftest import Demo
from tests.processes import SACCADE, ServerProcess
from tests.readme import README, with_settings

ROOT = README.parent
TEXT = README.read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_settings_table_is_current() -> None:
    """The settings table is the one that service/config.py gives; `make readme` mends it."""
    assert with_settings(TEXT) == TEXT


def test_length() -> None:
    """The README has fewer than 300 lines."""
    assert len(TEXT.splitlines()) < 300


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("make")])
def test_make_commands(command: str) -> None:
    """Every make command of the README is a target of the Makefile."""
    done = subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.timeout(400)
def test_commands_work_as_written(demo: Demo, wheel: Path) -> None:
    """After the demo the README's commands work one after the other, and so does its Python."""
    address = ""
    with ExitStack() as servers:
        for command in COMMANDS:
            words = shlex.split(command)
            if words[:2] == ["saccade", "serve"]:
                repository = Path(words[-1]) if "--repository" in words else None
                address = servers.enter_context(ServerProcess(repository, cwd=demo.folder)).address
            elif words[0] == "saccade":
                given = ["--address", address] if words[1] in {"classify", "models"} else []
                done = subprocess.run(
                    [*SACCADE, *words[1:], *given],
                    cwd=demo.folder,
                    capture_output=True,
                    text=True,
                    check=False,
                    timeout=115,
                )
                assert done.returncode == 0, f"{command}: {done.stderr}"
            else:
                assert words[0] in {"make", "pip"}, f"nobody runs {command}"
        for code in PYTHON:
            code_here = code.replace("localhost:8001", address)
            done = subprocess.run(
                [sys.executable, "-c", code_here],
                cwd=demo.folder,
                env={**os.environ, "PYTHONPATH": str(wheel)},
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
            assert done.returncode == 0, done.stderr
            assert len(done.stdout.splitlines()) == 3
    assert address, "the README starts no server"
