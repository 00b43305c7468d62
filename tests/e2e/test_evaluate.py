import json
import shutil
from pathlib import Path

import pytest

from export.model_file import BUNDLED
from service.manifest import read_manifest, sha256
from tests.e2e.conftest import Demo
from tests.processes import run

pytestmark = pytest.mark.timeout(400)  # the first of them waits for the demo
PICTURE = BUNDLED.parent / "pictures/digit-4.png"


def test_evaluate_by_the_recipe(demo: Demo, tmp_path: Path) -> None:
    """Data and seed are the recipe's, the part is the held-out one, and nothing is doubted."""
    done = run("evaluate", "lenet5-digits", "--repository", str(demo.folder / "models"), "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["data"] == {"name": "digits", "split": "test", "pictures": 269, "seed": 0}
    assert report["accuracy"] >= 0.97
    assert report["warnings"] == []
    assert (tmp_path / "reports/lenet5-digits/report.json").read_text() == done.stdout
    assert (tmp_path / "reports/lenet5-digits/report.html").is_file()


def test_export_says_how_good_the_file_is(demo: Demo) -> None:
    """The manifest of an exported file has the evaluation on the validation split, which agrees with its accuracy."""
    manifest = read_manifest(demo.folder / "models/lenet5-digits/1/model.onnx")
    assert manifest.evaluation is not None
    assert (manifest.evaluation.data, manifest.evaluation.split) == ("digits", "validation")
    assert manifest.evaluation.accuracy == manifest.accuracy


def test_evaluate_leaves_the_file_alone(demo: Demo, tmp_path: Path) -> None:
    """Without --write-manifest the file stays as it was; with it the summary is in the manifest."""
    path = tmp_path / "model.onnx"
    shutil.copy(demo.folder / "models/lenet5-digits/1/model.onnx", path)
    before = sha256(path)
    assert run("evaluate", str(path), cwd=tmp_path).returncode == 0
    assert sha256(path) == before
    assert run("evaluate", str(path), "--write-manifest", cwd=tmp_path).returncode == 0
    evaluation = read_manifest(path).evaluation
    assert evaluation is not None
    assert evaluation.split == "test"


def test_compare(demo: Demo, tmp_path: Path) -> None:
    """Two models on the same digits: the one that was trained on them is better, by more than chance."""
    done = run(
        *("evaluate", "lenet5-digits", "--repository", str(demo.folder / "models"), "--json", "--split", "validation"),
        *("--compare", str(BUNDLED / "lenet5-mnist")),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    compared = json.loads(done.stdout)["compare"]
    assert compared["report"]["model"]["name"] == "lenet5-mnist"
    assert compared["report"]["data"]["pictures"] == 270
    assert compared["mcnemar"]["only_first_right"] > compared["mcnemar"]["only_second_right"]
    assert compared["mcnemar"]["p_value"] < 0.05


def test_compare_two_of_one_name(tmp_path: Path) -> None:
    """Of two models with the same name and version the second goes by its path."""
    path = str(BUNDLED / "lenet5-mnist/1/model.onnx")
    done = run("evaluate", "lenet5-mnist", "--data", "digits", "--compare", path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"\n{path}: accuracy" in done.stdout


def test_an_accuracy_that_is_asked_for(tmp_path: Path) -> None:
    """Below --min-accuracy the exit code is 1, after the report was written."""
    done = run("evaluate", "lenet5-mnist", "--data", "digits", "--min-accuracy", "1", cwd=tmp_path)
    assert done.returncode == 1
    assert "--min-accuracy asks for 100.0000%" in done.stderr
    assert (tmp_path / "reports/lenet5-mnist/report.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing", "--data", "digits"], "no bundled model of that name"),
        (["lenet5-mnist", "--data", "nothing"], "no data set 'nothing'"),
        (["lenet5-mnist"], "--data-folder"),
    ],
)
def test_errors_say_what_next(arguments: list[str], words: str, tmp_path: Path) -> None:
    """What cannot be evaluated is one line and exit code 1, without a traceback."""
    done = run("evaluate", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_explain(tmp_path: Path) -> None:
    """`saccade explain` needs no server and no file beside the model, and says where the evidence lies."""
    done = run("explain", "lenet5-mnist", str(PICTURE), "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["evidence"][0]["label"] == "4"
    assert (tmp_path / said["output"]).read_text().startswith("<!DOCTYPE html>")


def test_explain_of_an_unknown_label(tmp_path: Path) -> None:
    """A label that the model lacks is an error that names some that it has."""
    done = run("explain", "lenet5-mnist", str(PICTURE), "--label", "cat", cwd=tmp_path)
    assert done.returncode == 1
    assert "no label 'cat'; its labels are '0', '1'" in done.stderr


def test_explain_to_another_kind_of_file(tmp_path: Path) -> None:
    """An output that is neither a page nor a PNG is a wrong use."""
    done = run("explain", "lenet5-mnist", str(PICTURE), "--output", "out.jpg", cwd=tmp_path)
    assert done.returncode == 2
    assert ".html nor .png" in done.stderr


def test_export_writes_the_explain_graph(demo: Demo, tmp_path: Path) -> None:
    """With --explain an exported version has explain.onnx, and `saccade explain` runs it."""
    done = run("export", str(demo.folder / "runs/demo"), "--explain", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    version = tmp_path / "models/lenet5-digits/1"
    assert sorted(entry.name for entry in version.iterdir()) == ["explain.onnx", "model.onnx"]
    explained = run("explain", str(version), str(PICTURE), "--output", "four.png", cwd=tmp_path)
    assert explained.returncode == 0, explained.stderr
    assert (tmp_path / "four.png").read_bytes().startswith(b"\x89PNG")
