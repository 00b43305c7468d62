"""Fixtures of more than one file here."""

from pathlib import Path

import pytest

from tests.disk import Disk


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    """Return a model repository on disk."""
    return Disk(tmp_path / "models")
