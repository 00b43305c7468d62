"""What the demo says to try next."""

import os
from pathlib import Path

import pytest

from export.demo import own_command


def programs(folder: Path) -> Path:
    """Return the folder of an environment's programs, `python` and `saccade` among them."""
    for name in ("python", "saccade"):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o755)
    return folder


def test_on_the_path(tmp_path: Path) -> None:
    """Where a shell finds this environment's `saccade` the command is that word."""
    own = programs(tmp_path / "own")
    search = os.pathsep.join(map(str, (tmp_path / "none", own)))
    assert own_command(own / "python", search) == "saccade"


def test_not_on_the_path(tmp_path: Path) -> None:
    """Where a shell finds none the command is its path, in quotes where a shell needs them."""
    own = programs(tmp_path / "an environment")
    assert own_command(own / "python", str(tmp_path / "none")) == f"'{own}/saccade'"


def test_another_first(tmp_path: Path) -> None:
    """Where a shell finds that of another environment first the command is the path of this one's."""
    own, other = programs(tmp_path / "own"), programs(tmp_path / "other")
    assert own_command(own / "python", os.pathsep.join(map(str, (other, own)))) == f"{own}/saccade"


def test_below_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the working folder the path is short, as `make` leaves it in .venv."""
    own = programs(tmp_path / ".venv/bin")
    monkeypatch.chdir(tmp_path)
    assert own_command(own / "python", str(tmp_path / "none")) == ".venv/bin/saccade"
