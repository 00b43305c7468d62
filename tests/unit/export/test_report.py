import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export import evaluation, foreign, report_page
from export import report as reports
from export.data import Pictures
from export.evaluate import mcnemar
from export.evaluation import Evaluated
from export.measure import Part, Split, open_model
from export.model_file import ModelFile, find
from export.report import MISTAKES, Comparison, Report
from service.errors import SetupError
from service.manifest import KEY, metadata, read_manifest
from tests.onnx_models import pictures, write_model

TEN = tuple("0123456789")
HOSTILE = '<script>alert("1")</script>'


def report_of(folder: Path, labels: tuple[str, ...], count: int = 60, seed: int = 0) -> Report:
    """Return the report of a model of these labels whose answers are drawn, and right more often than not."""
    random = np.random.default_rng(seed)
    true = random.integers(0, len(labels), count)
    scores = random.random((count, len(labels)))
    scores[np.arange(count), true] *= 2
    drawn = (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)
    opened = open_model(ModelFile(write_model(folder, labels=labels, samples=0), "linear", 2))
    part = Part("drawn", "test", 0, Pictures(pictures(count)[..., 0], true), labels)
    return reports.make(opened, part, true, drawn)


def page_of(report: Report, comparison: Comparison | None = None) -> str:
    """Return the page of a report, each mistake drawn as a grey square."""
    return report_page.render(report, [np.full((8, 8), 128, np.uint8)] * len(report.mistakes), comparison)


@pytest.fixture
def measured(tmp_path: Path) -> Evaluated:
    """Return a model of random weights, measured on scikit-learn's held-out digits."""
    write_model(tmp_path / "linear" / "1", labels=TEN)
    return evaluation.run(find("linear", tmp_path), "digits")


def test_figures_agree_with_the_confusion_matrix(measured: Evaluated) -> None:
    """Accuracy is the diagonal's share; every picture is in the matrix, in one class and in one bin."""
    report = measured.report
    confusion = np.array(report.confusion)
    assert report.accuracy == np.trace(confusion) / confusion.sum()
    assert confusion.sum() == report.data.pictures == len(measured.part.pictures)
    assert sum(row.pictures for row in report.classes) == report.data.pictures
    assert sum(part.pictures for part in report.calibration.bins) == report.data.pictures


def test_mistakes_are_the_most_confident(measured: Evaluated) -> None:
    """Mistakes are wrong, fall in confidence, and no picture that is left out was surer."""
    found = measured.report.mistakes
    wrong = measured.probabilities[~measured.right].max(axis=1)
    assert [mistake.confidence for mistake in found] == sorted(wrong.tolist(), reverse=True)[:MISTAKES]
    assert all(mistake.label == measured.true[mistake.picture] != mistake.predicted for mistake in found)


def test_json_keeps_its_names(measured: Evaluated) -> None:
    """report.json has these fields, under these names, and is the same for the same model and data."""
    text = reports.to_json(measured.report)
    fields = json.loads(text)
    assert list(fields) == [
        *("format", "made_by", "model", "data", "accuracy", "accuracy_interval", "top5_accuracy", "cross_entropy"),
        *("macro", "calibration", "classes", "confusion", "mistakes", "warnings"),
    ]
    assert list(fields["model"]) == [
        *("name", "version", "sha256", "provider", "precision", "architecture", "verified")
    ]
    assert list(fields["classes"][0]) == [*("index", "label", "pictures", "predicted", "precision", "recall", "f1")]
    assert fields["data"] == {"name": "digits", "split": "test", "pictures": 269, "seed": 0}
    again = evaluation.run(measured.opened.file, "digits")
    assert reports.to_json(again.report) == text


def test_top5_of_few_classes_says_nothing(tmp_path: Path) -> None:
    """With five classes or fewer there is no top-5 accuracy: it would be 1."""
    assert report_of(tmp_path, TEN[:5]).top5_accuracy is None
    assert report_of(tmp_path, TEN[:6]).top5_accuracy is not None


def test_confused_pairs(tmp_path: Path) -> None:
    """The pairs confused most often come first; what is right is no confusion."""
    report = replace(report_of(tmp_path, TEN[:2]), confusion=((50, 1), (3, 60)))
    assert reports.confused_pairs(report, 5) == [(1, 0, 3), (0, 1, 1)]


def test_comparison_uses_the_same_pictures(measured: Evaluated) -> None:
    """A model beside itself differs on no picture."""
    comparison = evaluation.beside(measured, measured.opened.file)
    right = int(measured.right.sum())
    assert (comparison.mcnemar.only_first_right, comparison.mcnemar.only_second_right) == (0, 0)
    assert (comparison.mcnemar.both_right, comparison.mcnemar.p_value) == (right, 1)


def test_labels_are_escaped(tmp_path: Path) -> None:
    """A label that is HTML is shown as text, wherever it stands."""
    report = report_of(tmp_path, (HOSTILE, "b"))
    page = page_of(report, Comparison(report, mcnemar(np.array([True]), np.array([False]))))
    assert "<script" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize("others", [tuple(f"class {digit}" for digit in TEN), tuple(reversed(TEN))])
def test_classes_of_two_models_are_matched(others: tuple[str, ...], tmp_path: Path) -> None:
    """Beside each other stand the figures of one class, matched by name, or by number where names differ."""
    first = report_of(tmp_path / "first", TEN, count=600)
    rows = [replace(row, label=label) for row, label in zip(first.classes, others, strict=True)]
    if others == tuple(reversed(TEN)):
        rows = [replace(row, label=row.label, f1=first.classes[int(row.label)].f1) for row in rows]
    second = replace(first, classes=tuple(rows))
    page = page_of(first, Comparison(second, mcnemar(np.array([True]), np.array([False]))))
    for row in first.classes:
        figure = f"{row.f1:.1%}".replace("%", " %")
        assert f"{figure} / {figure}" in page


def test_the_page_is_self_contained(tmp_path: Path) -> None:
    """The page loads nothing: every source is data of its own, and there is no script."""
    page = page_of(report_of(tmp_path, TEN))
    assert set(re.findall(r'(?:src|href)="([a-z]+:)', page)) == {"data:"}
    assert not re.findall(r"https?://|<script|<link|url\(", page)


@pytest.mark.parametrize(("classes", "as_table"), [(2, True), (30, True), (31, False), (1000, False)])
def test_the_confusion_matrix_suits_the_number_of_classes(classes: int, as_table: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a parameter of the test
    """Up to 30 classes it is a table; beyond, the most confused pairs and a picture stand for it."""
    page = page_of(report_of(tmp_path, tuple(f"class {number}" for number in range(classes)), count=3000))
    assert ('class="matrix"' in page) is as_table
    assert ("confused most often" in page) is not as_table


def test_written_files(measured: Evaluated, tmp_path: Path) -> None:
    """Both files are written, the pictures of the mistakes among them, and the text is that of report.json."""
    text = evaluation.write(measured, tmp_path / "report")
    assert (tmp_path / "report/report.json").read_text() == text
    page = (tmp_path / "report/report.html").read_text()
    assert page.count('<img src="data:image/png') == len(measured.report.mistakes)


def test_a_folder_that_cannot_be_written(measured: Evaluated, tmp_path: Path) -> None:
    """An output that is a file is an error that says what to do."""
    (tmp_path / "taken").touch()
    with pytest.raises(SetupError, match="--output"):
        evaluation.write(measured, tmp_path / "taken")


def test_the_summary_goes_into_the_manifest(measured: Evaluated) -> None:
    """The summary is in the file afterwards, the rest of the manifest is as it was, and no other file is left."""
    path = measured.opened.file.path
    before = read_manifest(path)
    evaluation.record(measured)
    after = read_manifest(path)
    assert after.evaluation is not None
    assert after.evaluation.accuracy == measured.report.accuracy
    assert after.evaluation.macro_f1 == measured.report.macro.f1
    assert after.evaluation.calibration_error == measured.report.calibration.error
    assert (after.evaluation.data, after.evaluation.split, after.evaluation.pictures) == ("digits", "test", 269)
    assert after.model_copy(update={"evaluation": None}) == before
    assert [entry.name for entry in path.parent.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(("split", "known"), [("train", False), ("all", False), ("validation", True)])
def test_a_manifest_that_says_a_part(measured: Evaluated, split: Split, known: bool) -> None:  # noqa: FBT001 - a parameter
    """A manifest that says a part keeps it, and learns the accuracy only of pictures that were not trained on."""
    path = measured.opened.file.path
    part = json.dumps({"labels": list(TEN), "recipe": {"data": "digits"}, "of_later_versions": 1})
    foreign.write_manifest(path, path.with_suffix(".part"), part)
    path.with_suffix(".part").replace(path)
    evaluated = evaluation.run(measured.opened.file, "digits", split=split)
    evaluation.record(evaluated)
    fields = json.loads(metadata(path)[KEY])
    assert fields["of_later_versions"] == 1
    assert fields["evaluation"]["accuracy"] == evaluated.report.accuracy
    assert fields.get("accuracy") == (evaluated.report.accuracy if known else None)


def test_the_rewritten_file_answers_alike(measured: Evaluated) -> None:
    """A file with a new summary passes its self-test and gives the same answers."""
    evaluation.record(measured)
    again = evaluation.run(measured.opened.file, "digits")
    assert np.array_equal(again.probabilities, measured.probabilities)
    assert again.report.model.sha256 != measured.report.model.sha256


def test_without_data_or_recipe(tmp_path: Path) -> None:
    """Without --data and without a recipe in the manifest there is an error that names --data."""
    with pytest.raises(SetupError, match="--data"):
        evaluation.run(ModelFile(write_model(tmp_path), "linear"))
