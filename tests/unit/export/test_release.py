"""From a run on a folder of pictures to a published version."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export import checkpoint, data, evaluation, model_file, onnx_export
from export.release import release
from export.train import input_of, train
from service import image
from service.errors import ModelRejected, SetupError
from service.manifest import Manifest, read_manifest
from tests.unit.export.conftest import QUICK

CROPPED = replace(QUICK, data="folder", epochs=1, channels=1, fit="crop", crop_fraction=0.5)
"""Keeps the middle quarter of a picture: to crop twice would leave another one."""


def drawn(bright: bool, seed: int) -> np.ndarray:  # noqa: FBT001 - what is drawn
    """Return a noisy grey picture, its middle bright or dark and its edge the other way round."""
    random = np.random.default_rng(seed)
    high, wide = random.integers(60, 90, 2)
    picture = np.full((high, wide), 60 if bright else 190)
    picture[high // 3 : -(high // 3), wide // 3 : -(wide // 3)] = 190 if bright else 60
    return np.clip(picture + random.normal(0, 60, picture.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return class folders of pictures of several sizes."""
    folder = tmp_path_factory.mktemp("photos")
    for word in ("bright", "dark"):
        (folder / word).mkdir()
        for number in range(40):
            encoded = image.encode_png(drawn(word == "bright", number))
            (folder / word / f"{number:02}.png").write_bytes(encoded)
    return folder


@pytest.fixture(scope="module")
def cropped(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that keeps the middle of its pictures."""
    folder = tmp_path_factory.mktemp("cropped")
    train(CROPPED, data.load("folder", photos, spec=input_of(CROPPED)), folder)
    return folder


@pytest.fixture(scope="module")
def repository(cropped: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository with that run and one of the whole pictures at another size."""
    folder = tmp_path_factory.mktemp("models")
    release(cropped, folder, "cropped", photos)
    whole = replace(CROPPED, architecture="lenet5-paper", fit="stretch", crop_fraction=1.0)
    run = tmp_path_factory.mktemp("whole")
    train(whole, data.load("folder", photos, spec=input_of(whole)), run)
    release(run, folder, "whole", photos)
    return folder


def test_a_run_that_crops_is_published(cropped: Path, repository: Path) -> None:
    """The published file of a run that keeps the middle of its pictures is as accurate as the run was."""
    manifest = read_manifest(repository / "cropped/1/model.onnx")
    assert manifest.accuracy == pytest.approx(checkpoint.load(cropped).accuracy)
    assert manifest.preprocessing.crop_fraction == 0.5


def test_evaluated_as_it_was_trained(repository: Path, photos: Path) -> None:
    """An evaluation crops pictures once, as serving does: it finds the accuracy that the manifest states."""
    file = model_file.find("cropped", repository)
    found = evaluation.run(file, "folder", photos, "validation")
    assert found.report.accuracy == pytest.approx(read_manifest(file.path).accuracy)


@pytest.mark.parametrize("names", [("cropped", "whole"), ("whole", "cropped")])
def test_compared_as_each_takes_pictures(repository: Path, photos: Path, names: tuple[str, str]) -> None:
    """Beside a model of another input, each is measured as alone, whichever is named first."""
    first, second = (model_file.find(name, repository) for name in names)
    beside = evaluation.beside(evaluation.run(first, "folder", photos, "all"), second, photos)
    alone = evaluation.run(second, "folder", photos, "all")
    assert beside.report.cross_entropy == pytest.approx(alone.report.cross_entropy)


def test_what_fails_its_last_check(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose golden samples do not come true is not published."""
    make = onnx_export.make_manifest

    def wrong(*given: Any, **named: Any) -> Manifest:  # noqa: ANN401 - as make_manifest takes it
        manifest = make(*given, **named)
        first, *others = manifest.golden_samples
        swapped = first.model_copy(update={"probabilities": first.probabilities[::-1]})
        return manifest.model_copy(update={"golden_samples": (swapped, *others)})

    monkeypatch.setattr(onnx_export, "make_manifest", wrong)
    with pytest.raises(ModelRejected, match="golden sample 0"):
        release(run, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_data_of_other_classes(cropped: Path, photos: Path, tmp_path: Path) -> None:
    """Data whose classes are not the run's are refused with both, and nothing is published."""
    others = tmp_path / "photos"
    others.mkdir()
    (others / "bright").symlink_to(photos / "bright")
    (others / "dim").symlink_to(photos / "dark")
    with pytest.raises(SetupError, match=r"2 classes \(bright, dim\), and .* 2 classes \(bright, dark\)"):
        release(cropped, tmp_path / "models", "", others)
    assert not (tmp_path / "models").exists()
