from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export import measure
from export.data import Data, Pictures
from export.foreign import write_manifest
from export.measure import Part
from export.model_file import ModelFile
from service import loading
from service.errors import ModelRejected, SetupError
from service.manifest import Manifest, read_manifest
from service.session import Session
from tests.onnx_models import LABELS, SPEC, pictures, probabilities, weights, write_model

SHOWN = pictures(70, seed=5)[..., 0]
PART = Part("drawn", "test", 0, Pictures(SHOWN, np.arange(70) % 4), LABELS)
MANIFEST = Manifest(
    labels=LABELS,
    preprocessing=SPEC,
    recipe={"data": "idx", "seed": 3},
    data="drawn, 10 pictures; accuracy on 4 others",
)


def part_of(count: int) -> Pictures:
    """Return the first so many pictures."""
    return PART.pictures.take(np.arange(count))


DRAWN = Data("drawn", LABELS, train=part_of(10), validation=part_of(4), test=part_of(6))


def test_answers(tmp_path: Path) -> None:
    """The answers are the model's for every picture in order, over several batches, and the last may be smaller."""
    opened = measure.open_model(ModelFile(write_model(tmp_path), "linear"))
    done: list[int] = []
    found = measure.answers(opened, PART, done.append)
    assert np.allclose(found, probabilities(SHOWN, weights()), atol=1e-5)
    assert done == [32, 32, 6]


def test_opened_as_it_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file's own precision is asked of the provider, as the server asks it: a bf16 file is measured in bf16."""
    asked: list[str] = []

    def open_session(*given: Any, precision: str, **options: Any) -> Session:  # noqa: ANN401 - what the other takes
        asked.append(precision)
        return loading.open_session(*given, precision="fp32", **options)

    monkeypatch.setattr(measure, "open_session", open_session)
    path, fp32 = tmp_path / "bf16.onnx", write_model(tmp_path)
    write_manifest(fp32, path, read_manifest(fp32).model_copy(update={"precision": "bf16"}))
    measure.open_model(ModelFile(path, "linear"))
    assert asked == ["bf16"]


def test_a_model_that_fails_its_self_test_is_not_measured(tmp_path: Path) -> None:
    """A file that the server would not serve is an error with its path."""
    with pytest.raises(ModelRejected, match=r"model\.onnx: cpu: self-test"):
        measure.open_model(ModelFile(write_model(tmp_path, wrong_by=0.1), "linear"))


def test_answers_that_are_no_numbers(tmp_path: Path) -> None:
    """A model that gives NaN is an error that names the pictures."""
    opened = measure.open_model(ModelFile(write_model(tmp_path, samples=0, bias=float("nan")), "linear"))
    with pytest.raises(ModelRejected, match=r"pictures 0 to 31: .* not finite"):
        measure.answers(opened, PART)


@pytest.mark.parametrize(("split", "count"), [("train", 10), ("validation", 4), ("test", 6), ("all", 20), (None, 6)])
def test_parts(split: measure.Split | None, count: int) -> None:
    """Each part has its pictures, `all` has every one, and the held-out part is the default."""
    assert len(measure.choose(DRAWN, split, 0).pictures) == count


def test_default_part_without_a_held_out_one() -> None:
    """Without held-out pictures the default is the part to choose by."""
    assert measure.choose(replace(DRAWN, test=part_of(0)), None, 0).split == "validation"


def test_an_empty_part() -> None:
    """A part without pictures is an error that names those that have some."""
    with pytest.raises(SetupError, match="no test part; --split may be train, validation, all"):
        measure.choose(replace(DRAWN, test=part_of(0)), "test", 0)


def test_no_doubt() -> None:
    """The held-out part of the very split of the recipe gives no warning."""
    assert measure.doubts(MANIFEST, DRAWN, "idx", measure.choose(DRAWN, "test", 3)) == []


def test_training_pictures_are_told() -> None:
    """Measuring on the training part gives a warning that says so."""
    [said] = measure.doubts(MANIFEST, DRAWN, "idx", measure.choose(DRAWN, "train", 3))
    assert "trained on pictures of this part" in said


@pytest.mark.parametrize(("trained_on", "name"), [("idx", "mnist"), ("mnist", "idx")])
def test_the_same_files_by_another_name(trained_on: str, name: str) -> None:
    """MNIST's files are MNIST's where they are read as `idx` too: its training part is told."""
    manifest = MANIFEST.model_copy(update={"recipe": {"data": trained_on, "seed": 3}})
    [said] = measure.doubts(manifest, DRAWN, name, measure.choose(DRAWN, "train", 3))
    assert "trained on pictures of this part" in said


def test_other_files_of_the_same_form() -> None:
    """Files of MNIST's form, read as `idx`, with another number of pictures to train on are other data: no doubt."""
    manifest = MANIFEST.model_copy(update={"recipe": {"data": "mnist", "seed": 3}})
    other = replace(DRAWN, train=part_of(9))
    assert measure.doubts(manifest, other, "idx", measure.choose(other, "train", 3)) == []


def test_another_seed_is_told() -> None:
    """A part of a split by another seed than the recipe's gives a warning with both seeds."""
    [said] = measure.doubts(MANIFEST, DRAWN, "idx", measure.choose(DRAWN, "test", 0))
    assert "by seed 3, these by seed 0" in said


def test_another_split_is_told() -> None:
    """Data whose training part is not the one that the manifest names give a warning with both."""
    other = replace(DRAWN, train=part_of(9))
    [said] = measure.doubts(MANIFEST, other, "idx", measure.choose(other, "test", 3))
    assert "'drawn, 10 pictures; accuracy on 4 others'" in said
    assert "'drawn, 9 pictures'" in said


def test_other_data_are_no_doubt() -> None:
    """Another data set than the recipe's cannot hold its training pictures."""
    assert measure.doubts(MANIFEST, DRAWN, "digits", measure.choose(DRAWN, "all", 0)) == []


def test_unknown_training_data_are_told() -> None:
    """A file that does not say what it was trained on gives a warning."""
    [said] = measure.doubts(
        Manifest(labels=LABELS, preprocessing=SPEC), DRAWN, "digits", measure.choose(DRAWN, "test", 0)
    )
    assert "does not say" in said


def test_classes_are_matched_by_name() -> None:
    """Data with the model's classes in another order, or only some of them, get the model's indices."""
    part = replace(PART, classes=("fox", "cat"), pictures=Pictures(SHOWN[:3], np.array([0, 1, 0])))
    assert measure.true_indices(part, LABELS).tolist() == [3, 0, 3]


def test_numbered_classes_are_indices() -> None:
    """Classes that are only numbered, as IDX files have them, are the model's by their number."""
    part = replace(PART, classes=("0", "1"), pictures=Pictures(SHOWN[:2], np.array([1, 0])))
    assert measure.true_indices(part, LABELS).tolist() == [1, 0]


def test_unknown_classes() -> None:
    """A class that the model lacks is an error that names it and the model's labels."""
    part = replace(PART, classes=("cat", "cow"))
    with pytest.raises(SetupError, match="has the class 'cow', which the model does not; its labels are 'cat', 'dog'"):
        measure.true_indices(part, LABELS)


def test_a_label_twice() -> None:
    """A class whose name two of the model's labels have is an error, since either could be meant."""
    part = replace(PART, classes=("cat", "dog"))
    with pytest.raises(SetupError, match="'cat' more than once"):
        measure.true_indices(part, ("cat", "dog", "cat"))
