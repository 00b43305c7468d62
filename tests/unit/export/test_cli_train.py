import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from export.cli_train import train
from export.recipes import RECIPES
from export.run import load_state
from export.train import train as train_by
from service import image
from service.errors import SaccadeError
from service.manifest import read_manifest
from tests.unit.export.conftest import QUICK
from tests.unit.export.test_folders import picture, write
from tests.unit.export.test_resume import Killed

Saccade = Callable[..., str]
SHORT = ("lenet5-digits", "--epochs", "1", "--batch-size", "256")


@pytest.fixture
def saccade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Saccade:
    """Return what runs `saccade train` in an empty folder and returns its output; its errors are raised."""
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.command()(train)

    def run(*words: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, words)
        if isinstance(result.exception, SaccadeError):
            raise result.exception
        assert result.exit_code == code, (result.output, result.exception)
        return result.output

    return run


def test_recipes_are_listed(saccade: Saccade) -> None:
    """Without a recipe, all are listed with the accuracy to expect; as JSON with all their fields."""
    assert all(name in saccade() for name in RECIPES)
    assert json.loads(saccade("--json")) == [recipe.fields() for recipe in RECIPES.values()]


def test_next_step_is_said(saccade: Saccade) -> None:
    """A run ends with its accuracy and the command that exports it."""
    printed = saccade(*SHORT)
    assert "of the validation split; next: saccade export runs/lenet5-digits" in printed


def test_lines_in_a_log(saccade: Saccade) -> None:
    """Where there is no terminal, every epoch is a line with loss, accuracy, images a second and the time left."""
    assert "epoch 1/1: loss" in saccade(*SHORT)


def test_json(saccade: Saccade) -> None:
    """With --json the result is one object, and nothing else is printed."""
    printed = json.loads(saccade(*SHORT, "--json"))
    assert printed["run"] == "runs/lenet5-digits"
    assert 0 <= printed["accuracy"] <= 1


def test_any_field(saccade: Saccade) -> None:
    """Flags and --set change the recipe that is recorded."""
    saccade(*SHORT, "--seed", "3", "--set", "learning_rate=0.01", "--set", "optimizer=sgd")
    recipe = json.loads(Path("runs/lenet5-digits/run.json").read_text())["recipe"]
    assert (recipe["epochs"], recipe["batch_size"], recipe["seed"]) == (1, 256, 3)
    assert (recipe["learning_rate"], recipe["optimizer"]) == (0.01, "sgd")


def test_full_batch(saccade: Saccade) -> None:
    """--batch-size all takes one step an epoch."""
    saccade("lenet5-digits", "--epochs", "2", "--batch-size", "all", "--run", "all")
    assert load_state(Path("all")).steps["done"] == 2


def test_stopped_run_is_not_lost(saccade: Saccade, digits: object) -> None:
    """A run that was stopped is not overwritten; the error says how to go on, and --resume does."""

    def stop(_: object) -> None:
        raise Killed

    from export import data
    from export.train import Told

    with pytest.raises(Killed):
        train_by(QUICK, data.load("digits"), Path("stopped"), Told(stop))
    with pytest.raises(SaccadeError, match=r"stopped after 1 of 3 epochs: go on with it by --resume"):
        saccade("lenet5-digits", "--epochs", "3", "--run", "stopped")
    saccade("lenet5-digits", "--epochs", "3", "--run", "stopped", "--resume")
    assert len(load_state(Path("stopped")).epochs) == 3


@pytest.mark.parametrize("option", ["--start", "--teacher"])
def test_own_folder(saccade: Saccade, option: str) -> None:
    """A run that would overwrite the one that it builds on is told to go elsewhere, not to delete that one."""
    saccade(*SHORT)
    with pytest.raises(SaccadeError, match=r"the folder of this run itself; name another by --run"):
        saccade(*SHORT, option, "runs/lenet5-digits")


def test_finished_run_is_not_lost(saccade: Saccade) -> None:
    """A run that ended is not overwritten by the same command; the error names it and says what to do."""
    saccade(*SHORT)
    with pytest.raises(SaccadeError, match=r"holds a finished run of 1 epochs, .*: give another folder by --run"):
        saccade(*SHORT)


def test_own_pictures(saccade: Saccade, tmp_path: Path) -> None:
    """Any recipe trains on a folder of pictures of several sizes, coloured, with the names of their folders."""
    folder = write(tmp_path / "pets")
    (folder / "a/00.png").write_bytes(image.encode_png(picture(0, 40, 30)))
    saccade(*SHORT, "--set", "data=folder", "--data-folder", str(folder), "--run", "pets-run")
    record = json.loads(Path("pets-run/run.json").read_text())
    assert record["data"]["classes"] == ["a", "b"]
    assert record["data"]["name"] == "pets"


def test_skip_bad(saccade: Saccade, tmp_path: Path) -> None:
    """With --skip-bad, pictures that cannot be read are left out, counted and named."""
    folder = write(tmp_path / "pets")
    (folder / "a/00.png").write_bytes(b"rubbish")
    words = (*SHORT, "--set", "data=folder", "--data-folder", str(folder))
    with pytest.raises(SaccadeError, match=r"a/00\.png"):
        saccade(*words)
    assert "pictures left out, as they cannot be read: 1: " in saccade(*words, "--skip-bad")


def test_fine_tuning(saccade: Saccade, run: Path, tmp_path: Path) -> None:
    """A run starts from another one's weights, with a head for its own classes and a body that stays."""
    folder = write(tmp_path / "pets")
    grey = ("--set", "channels=1", "--set", "data=folder", "--data-folder", str(folder))
    saccade(*SHORT, *grey, "--start", str(run), "--freeze", "features", "--run", "tuned")
    tuned, start = (load_state(folder).steps["model"] for folder in (Path("tuned"), run))
    same = {
        name
        for name, weights in tuned.items()
        if weights.shape == start[name].shape and bool((weights == start[name]).all())
    }
    assert {name for name in tuned if name.startswith("network.features.")} <= same
    assert tuned["network.classifier.5.weight"].shape == (2, 84)


def test_data_in_the_usual_folder(saccade: Saccade, tmp_path: Path) -> None:
    """Without --data-folder, data/NAME is taken where it is there; else the error names the option."""
    words = (*SHORT, "--set", "data=folder")
    with pytest.raises(SaccadeError, match="needs --data-folder"):
        saccade(*words)
    write(tmp_path / "data" / "folder")
    saccade(*words)


def test_nothing_to_download(saccade: Saccade) -> None:
    """--download for data without a public address is an error that names those with one."""
    with pytest.raises(SaccadeError, match="no public address of 'digits'"):
        saccade(*SHORT, "--download")


def test_own_pictures_to_a_published_model(saccade: Saccade, tmp_path: Path) -> None:
    """One command goes from a folder of pictures to a verified version in a model repository, with its classes."""
    folder = str(write(tmp_path / "pets", "dc"))
    words = ("--epochs", "1", "--repository", "models", "--name", "pets")
    printed = saccade("pictures-small", "--data-folder", folder, *words)
    assert "models/pets/1: parity" in printed
    assert "next: saccade serve --repository models" in printed
    assert read_manifest(tmp_path / "models/pets/1/model.onnx").labels == ("c", "d")


@pytest.mark.parametrize("words", [("--serve",), ("--name", "pets")])
def test_ways_on_want_a_repository(saccade: Saccade, words: tuple[str, ...]) -> None:
    """Serving or naming what is not published is refused before the training."""
    assert "go with --repository" in saccade(*SHORT, *words, code=2)
    assert not Path("runs").exists()


def test_one_process_serves(saccade: Saccade, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under torchrun --serve is refused: every process would serve."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "under torchrun" in saccade(*SHORT, "--repository", "models", "--serve", code=2)
