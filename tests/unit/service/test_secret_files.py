"""Files of secrets: what is said of their names, and who is warned of."""

from pathlib import Path

import pytest

from service.secret_files import MASK, shown, warn_of_readers
from tests.conftest import Lines

KEY = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg\n-----END PRIVATE KEY-----\n"


def test_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is there is named, however it was given."""
    (tmp_path / "tokens").write_text("")
    monkeypatch.chdir(tmp_path)
    assert shown(tmp_path / "tokens") == str(tmp_path / "tokens")
    assert shown(Path("tokens")) == "tokens"


@pytest.mark.parametrize("path", ["/run/secrets/tokns", "../tokns", ".tokens"])
def test_a_path(path: str) -> None:
    """What begins like a path is shown, so that whoever mistyped it sees how."""
    assert shown(Path(path)) == path


@pytest.mark.parametrize("text", ["alice:0123456789abcdef", "nowhere", KEY, f"/{KEY}", "x" * 5000, "/a\0b", "a\0b"])
def test_a_secret(text: str) -> None:
    """What names no file may be the secret itself, and is masked."""
    assert shown(Path(text)) == MASK


@pytest.mark.parametrize(("mode", "warned"), [(0o600, 0), (0o640, 0), (0o644, 1)])
def test_readers(tmp_path: Path, lines: Lines, mode: int, warned: int) -> None:
    """A secret that everybody may read is warned of."""
    path = tmp_path / "file"
    path.write_text("secret")
    path.chmod(mode)
    warn_of_readers(path, "--tls-key")
    assert len(lines()) == warned


@pytest.mark.parametrize("text", ["nowhere", "x" * 5000, "a\0b"])
def test_no_file(text: str, lines: Lines) -> None:
    """What is no file is for others to complain of."""
    warn_of_readers(Path(text), "--tls-key")
    assert lines() == []
