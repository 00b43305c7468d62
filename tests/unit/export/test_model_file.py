from pathlib import Path

import pytest

from export.model_file import BUNDLED, ModelFile, find
from service.errors import SetupError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a repository with `cats`, versions 2 and 10."""
    for version in ("2", "10"):
        (tmp_path / "models/cats" / version).mkdir(parents=True)
        (tmp_path / "models/cats" / version / "model.onnx").touch()
    return tmp_path / "models"


def test_a_file(root: Path) -> None:
    """A file in a repository is called as its model and version."""
    path = root / "cats/2/model.onnx"
    assert find(str(path)) == ModelFile(path, "cats", 2)


def test_a_file_of_its_own(tmp_path: Path) -> None:
    """A file that lies in no repository is called by its own name, without a version."""
    path = tmp_path / "mine.onnx"
    path.touch()
    assert find(str(path)) == ModelFile(path, "mine", 0)


def test_a_version_folder(root: Path) -> None:
    """A version's folder means its model.onnx."""
    assert find(str(root / "cats/2")).path == root / "cats/2/model.onnx"


def test_a_model_folder(root: Path) -> None:
    """A model's folder means its highest version, as a number: 10 comes after 2."""
    assert find(str(root / "cats")).version == 10


def test_a_name_in_a_repository(root: Path) -> None:
    """A name is looked for in the repository that is named."""
    assert find("cats", root).version == 10
    assert find("cats/2", root).version == 2


def test_a_path_beside_a_repository(root: Path) -> None:
    """What is no name in the repository that is named may be a path: one of two models often is."""
    assert find(str(root / "cats/2"), BUNDLED).path == root / "cats/2/model.onnx"


def test_a_bundled_name() -> None:
    """Without a repository a name means a bundled model."""
    assert find("lenet5-mnist").path.parents[2] == BUNDLED


def test_an_unknown_name(root: Path) -> None:
    """An unknown name is an error that names the models there are."""
    with pytest.raises(SetupError, match="there are: cats"):
        find("dogs", root)


def test_nothing_of_that_name() -> None:
    """What is neither a path nor a bundled model is an error that says how to name a repository."""
    with pytest.raises(SetupError, match=r"lenet5-mnist.*--repository"):
        find("nowhere/at/all")


def test_a_training_run(tmp_path: Path) -> None:
    """The folder of a training run is an error that says how to export it."""
    (tmp_path / "checkpoint.pt").touch()
    with pytest.raises(SetupError, match="saccade export"):
        find(str(tmp_path))


def test_an_empty_folder(tmp_path: Path) -> None:
    """A folder without a model is an error that says what it lacks."""
    with pytest.raises(SetupError, match=r"neither model\.onnx nor versions"):
        find(str(tmp_path))
