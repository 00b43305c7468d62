"""The settings as a table, and those in force as `saccade serve --print-config` prints them."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from service.cli import app
from service.config import Settings, flag, variable
from service.secret_files import MASK
from service.shown import SECRET_FILES, settings_table

SETTINGS = sorted(Settings.model_fields)
TOKEN = "alice:0123456789abcdef"
KEY = "-----BEGIN PRIVATE KEY-----\nMIG" + "x" * 5000


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away the variables that this process was started with."""
    for name in [name for name in os.environ if name.startswith("SACCADE_")]:
        monkeypatch.delenv(name)


def shown(*arguments: str) -> dict[str, Any]:
    """Return what --print-config prints with these arguments."""
    result = CliRunner().invoke(app, ["serve", "--print-config", *arguments])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.mark.parametrize("name", SETTINGS)
def test_table_row(name: str) -> None:
    """Each setting has one row in the table, with its flag and its variable."""
    rows = [row for row in settings_table().splitlines() if row.startswith(f"| `{flag(name)}` | `{variable(name)}` |")]
    assert len(rows) == 1


def test_table_size() -> None:
    """The table has no rows but the settings' and its two head rows."""
    assert len(settings_table().splitlines()) == len(SETTINGS) + 2


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("grpc_port", "`8001` | 0 to 65,535"),
        ("max_batch_size", "`32` | 1 to 4,096"),
        ("grace", "`30.0` | 0 to 3,600"),
        ("provider", "`auto` | auto, tensorrt, cuda, openvino, cpu"),
        ("reflection", "`true` | "),
        ("default_model", " | "),
    ],
)
def test_table_cells(name: str, cells: str) -> None:
    """A row says the default and the bounds."""
    row = next(row for row in settings_table().splitlines() if row.startswith(f"| `{flag(name)}`"))
    assert row.startswith(f"| `{flag(name)}` | `{variable(name)}` | {cells} |")


def test_every_setting() -> None:
    """Every setting is shown with its value and where it comes from, a line each."""
    assert shown() == {
        name: {"value": field.default, "from": "default"} for name, field in Settings.model_fields.items()
    }
    result = CliRunner().invoke(app, ["serve", "--print-config"])
    assert len(result.stdout.splitlines()) == len(SETTINGS) + 2


def test_origins(monkeypatch: pytest.MonkeyPatch) -> None:
    """What decided is named: the command line before the environment, in any case, and that before the default."""
    monkeypatch.setenv("SACCADE_GRPC_PORT", "9001")
    monkeypatch.setenv("saccade_metrics_port", "9002")
    monkeypatch.setenv("SACCADE_REFLECTION", "true")
    found = shown("--grpc-port", "9003", "--no-access-log")
    assert found["grpc_port"] == {"value": 9003, "from": "command line"}
    assert found["access_log"] == {"value": False, "from": "command line"}
    assert found["metrics_port"] == {"value": 9002, "from": "environment"}
    assert found["reflection"] == {"value": True, "from": "environment"}
    assert found["host"] == {"value": "0.0.0.0", "from": "default"}


@pytest.mark.parametrize("name", SECRET_FILES)
def test_files_of_secrets(name: str, tmp_path: Path) -> None:
    """A file of secrets is shown by its name alone."""
    path = tmp_path / "secret"
    path.write_text(TOKEN)
    found = shown(flag(name), str(path))
    assert found[name] == {"value": str(path), "from": "command line"}
    assert TOKEN not in str(found)


@pytest.mark.parametrize("name", SECRET_FILES)
@pytest.mark.parametrize("secret", [TOKEN, KEY], ids=["token", "key"])
def test_secrets_instead_of_files(name: str, secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret that was given where its file's name belongs is masked."""
    monkeypatch.setenv(variable(name), secret)
    assert shown()[name] == {"value": MASK, "from": "environment"}


def test_every_file_is_thought_of() -> None:
    """Each setting that names a file either holds nothing secret or is one of those that are masked."""
    files = {name for name, field in Settings.model_fields.items() if field.annotation == Path | None}
    assert files - set(SECRET_FILES) == {"repository", "tls_certificate", "tls_client_ca"}


def test_wrong_settings() -> None:
    """What is out of bounds is exit code 2 and nothing on standard output."""
    result = CliRunner().invoke(app, ["serve", "--print-config", "--grpc-port", "65536"])
    assert (result.exit_code, result.stdout) == (2, "")
