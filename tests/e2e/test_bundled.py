"""The first minute: the bundled model, the example pictures, no torch and nothing to train."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from export import examples, recipes
from service import image
from service.manifest import read_manifest
from service.server import BUNDLED, BUNDLED_DEFAULT
from tests.processes import ServerProcess, run

DIGITS = tuple("0123456789")
PICTURES = BUNDLED.parent / "pictures"


def test_bundled_model_says_what_it_is() -> None:
    """The bundled LeNet-5 has the paper's ten digits, golden samples and at least 99.2 % on its validation split."""
    manifest = read_manifest(BUNDLED / BUNDLED_DEFAULT / "1/model.onnx")
    assert manifest.labels == DIGITS
    assert manifest.architecture == "lenet5"
    assert manifest.accuracy is not None
    assert manifest.accuracy >= 0.992
    assert len(manifest.golden_samples) >= 4


def test_bundled_resnet_says_what_it_is() -> None:
    """The bundled ResNet-20 has CIFAR-10's classes, golden samples and more than 89.5 % on its validation split."""
    manifest = read_manifest(BUNDLED / "resnet20-cifar10/1/model.onnx")
    assert manifest.labels[:3] == ("airplane", "automobile", "bird")
    assert manifest.architecture == "resnet20"
    assert manifest.accuracy is not None
    assert manifest.accuracy > 0.895
    assert len(manifest.golden_samples) >= 4


@pytest.mark.parametrize("path", sorted(BUNDLED.glob("*/*/model.onnx")), ids=lambda path: path.parent.parent.name)
def test_bundled_by_a_recipe(path: Path) -> None:
    """A bundled model says the recipe that is listed, all its fields, and what was measured on its validation split."""
    manifest = read_manifest(path)
    recipe = recipes.find(str(manifest.recipe["name"]))
    assert {**recipe.fields(), "precision": manifest.recipe["precision"]} == manifest.recipe
    assert manifest.evaluation is not None
    assert manifest.evaluation.accuracy == manifest.accuracy


def test_bundled_models_are_all_served(tmp_path: Path) -> None:
    """Without a repository all bundled models are served, verified, and the LeNet answers who names none."""
    with ServerProcess(None, cwd=tmp_path) as server:
        asked = run("models", "--json", "--address", server.address, cwd=tmp_path)
    rows = json.loads(asked.stdout)
    assert [(row["name"], row["state"]) for row in rows] == [("lenet5-mnist", "READY"), ("resnet20-cifar10", "READY")]


def test_example_pictures_are_current() -> None:
    """The example pictures are those that export/examples.py draws; `make bundled` mends it."""
    for digit, strokes in examples.STROKES.items():
        assert (PICTURES / f"digit-{digit}.png").read_bytes() == image.encode_png(examples.draw(strokes))


def test_serve_and_classify_without_anything(tmp_path: Path) -> None:
    """`saccade serve` and `saccade classify`, without any argument, give the right label for every example."""
    with ServerProcess(None, cwd=tmp_path) as server:
        asked = run("classify", "--json", "--address", server.address, cwd=tmp_path)
        assert server.lines[0]["verified"] is True
    rows = json.loads(asked.stdout)
    assert [(row["model"], row["categories"][0]["label"]) for row in rows] == [
        (BUNDLED_DEFAULT, digit) for digit in DIGITS
    ]


def test_classify_in_process(tmp_path: Path) -> None:
    """`saccade classify --local` needs no server, and gives the same labels."""
    rows = json.loads(run("classify", "--local", "--json", cwd=tmp_path).stdout)
    assert [row["categories"][0]["label"] for row in rows] == list(DIGITS)


@pytest.mark.parametrize("inverted", [False, True])
def test_both_polarities(inverted: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a parameter of the test
    """Black on white and white on black are classified alike."""
    for digit, strokes in examples.STROKES.items():
        drawn = examples.draw(strokes)
        (tmp_path / f"{digit}.png").write_bytes(image.encode_png(255 - drawn if inverted else drawn))
    rows = json.loads(run("classify", "--local", "--json", str(tmp_path)).stdout)
    assert [row["categories"][0]["label"] for row in rows] == list(DIGITS)


def test_standard_input_and_bad_pictures(tmp_path: Path) -> None:
    """`-` reads standard input; a picture that is none is a row with its error, and the exit code is 1."""
    (tmp_path / "bad.png").write_bytes(b"no picture")
    command = [sys.executable, "-m", "service.cli", "classify", "--local", "--json", "-", str(tmp_path)]
    done = subprocess.run(command, input=(PICTURES / "digit-7.png").read_bytes(), capture_output=True, check=False)
    good, bad = json.loads(done.stdout)
    assert good["categories"][0]["label"] == "7"
    assert "10 bytes" in bad["error"]
    assert done.returncode == 1
    assert "1 of 2 pictures" in done.stderr.decode()
