from pathlib import Path

import numpy as np
import pytest

from export import evaluation, measure
from export.model_file import ModelFile
from service import image
from service.errors import SetupError
from service.manifest import Manifest
from tests.onnx_models import LABELS, SPEC, write_model


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Return class folders of pictures of several sizes, the first of which is broken."""
    for label in LABELS:
        (tmp_path / "pets" / label).mkdir(parents=True)
        for number in range(10):
            picture = np.random.default_rng(number).integers(0, 256, (10 + number, 12, 3), dtype=np.uint8)
            (tmp_path / "pets" / label / f"{number}.png").write_bytes(image.encode_png(picture))
    (tmp_path / "pets" / LABELS[0] / "0.png").write_bytes(b"no picture")
    return tmp_path / "pets"


def test_class_folders_are_read_as_export_reads_them(pets: Path) -> None:
    """Pictures of class folders have the model's size in memory, and a bad one is left out."""
    manifest = Manifest(labels=LABELS, preprocessing=SPEC)
    found, name = measure.load(manifest, Path("model.onnx"), "folder", pets)
    assert name == "folder"
    assert found.train.images.shape == (35, SPEC.height, SPEC.width, SPEC.channels)
    assert len(found.bad) == 1


def test_what_was_left_out_is_told(pets: Path, tmp_path: Path) -> None:
    """An evaluation goes on without a picture that cannot be read, and warns of it by its name."""
    file = ModelFile(write_model(tmp_path / "linear/1"), "linear")
    evaluated = evaluation.run(file, "folder", pets, "all")
    assert evaluated.report.data.pictures == 39
    assert any("0.png" in warning and "left out" in warning for warning in evaluated.report.warnings)


def test_nobody_names_the_data(tmp_path: Path) -> None:
    """A model that does not say what it was trained on needs --data."""
    with pytest.raises(SetupError, match="name the data by --data"):
        evaluation.run(ModelFile(write_model(tmp_path / "linear/1"), "linear"))
