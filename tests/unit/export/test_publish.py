import subprocess
import sys
import threading
from pathlib import Path

import pytest

from export.publish import publish
from service.errors import SetupError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a file to publish."""
    path = tmp_path / "made.onnx"
    path.write_bytes(b"model")
    return path


def test_first_version(file: Path, tmp_path: Path) -> None:
    """The first version of a model is 1, and nothing but the file is in it."""
    version = publish(file, tmp_path / "models", "digits")
    assert version == tmp_path / "models/digits/1"
    assert [path.name for path in version.iterdir()] == ["model.onnx"]
    assert (version / "model.onnx").read_bytes() == b"model"


@pytest.mark.parametrize("name", ["", "my photos", "a/b", "../x", "liveness", ".hidden"])
def test_names_that_no_server_serves(file: Path, tmp_path: Path, name: str) -> None:
    """A name under which no server would serve the model is refused, and nothing is written."""
    with pytest.raises(SetupError, match="a model cannot be called"):
        publish(file, tmp_path / "models", name)
    assert not (tmp_path / "models").exists()


def test_next_version(file: Path, tmp_path: Path) -> None:
    """A new version is one higher than the highest there is; other folders do not count."""
    for name in ("2", "10", "old", ".publish-x"):
        (tmp_path / "models/digits" / name).mkdir(parents=True)
    assert publish(file, tmp_path / "models", "digits").name == "11"


def test_nothing_is_left_behind(file: Path, tmp_path: Path) -> None:
    """After publishing, the model's folder holds versions only."""
    publish(file, tmp_path / "models", "digits")
    assert [path.name for path in (tmp_path / "models/digits").iterdir()] == ["1"]


def test_failure_leaves_nothing(tmp_path: Path) -> None:
    """A file that cannot be read is an error, and no version appears."""
    with pytest.raises(SetupError, match="cannot publish"):
        publish(tmp_path / "nowhere.onnx", tmp_path / "models", "digits")
    assert list((tmp_path / "models/digits").iterdir()) == []


def test_full_disk(tmp_path: Path) -> None:
    """Where the disk takes only a part of the file, publishing fails with the reason and leaves nothing behind."""
    (tmp_path / "made.onnx").write_bytes(b"x" * 200_000)
    code = (
        "import resource, pathlib, sys; from export.publish import publish;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
        f"publish(pathlib.Path({str(tmp_path / 'made.onnx')!r}), pathlib.Path({str(tmp_path / 'models')!r}), 'digits')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "SetupError: cannot publish to" in done.stderr
    assert "File too large" in done.stderr
    assert list((tmp_path / "models/digits").iterdir()) == []


def test_publishing_at_the_same_time(file: Path, tmp_path: Path) -> None:
    """Sixteen publishers at once get sixteen versions."""
    versions: list[str] = []
    threads = [
        threading.Thread(target=lambda: versions.append(publish(file, tmp_path / "models", "digits").name))
        for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(versions, key=int) == [str(number) for number in range(1, 17)]
