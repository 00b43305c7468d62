from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from export.data import Data
from export.run import Epoch, held, load_state, save_state
from export.step import Steps
from export.train import Step, Told, train
from service.errors import SetupError
from tests.unit.export.conftest import QUICK

RECIPE = replace(
    QUICK, architecture="resnet20", epochs=3, batch_size=16, optimizer="sgd", learning_rate=0.1, average=0.9, crop=1
)
"""Everything that a run must remember: momentum, running statistics, an average of weights, random numbers."""


class Killed(Exception):
    """Ends a run as a kill would: nothing is written after it."""


@pytest.fixture(scope="module")
def few(digits: Data) -> Data:
    """Return enough of the digits for a run of seconds."""
    return replace(digits, train=digits.train.take(np.arange(48)), validation=digits.validation.take(np.arange(20)))


@pytest.fixture(scope="module")
def whole(few: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that was never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    train(RECIPE, few, folder)
    return folder


def killed_after(steps: int, folder: Path, few: Data) -> None:
    """Run until so many steps are done, the step that is told included."""
    done = 0

    def count(_: Step) -> None:
        nonlocal done
        done += 1
        if done == steps:
            raise Killed

    with pytest.raises(Killed):
        train(RECIPE, few, folder, Told(step=count, every=0.0))


def same(first: object, second: object) -> bool:
    """Return whether two states hold the same, to the last bit."""
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and torch.equal(first, second)
    if isinstance(first, dict):
        return (
            isinstance(second, dict) and first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
        )
    if isinstance(first, list | tuple):
        return isinstance(second, list | tuple) and all(same(a, b) for a, b in zip(first, second, strict=True))
    return first == second


@pytest.mark.parametrize("steps", [4, 5, 8])
def test_resumed_as_if_never_stopped(tmp_path: Path, few: Data, whole: Path, steps: int) -> None:
    """A run killed in its second or third epoch and resumed ends with the same bits as one that was not."""
    killed_after(steps, tmp_path, few)
    train(RECIPE, few, tmp_path, resume=True)
    ended, expected = load_state(tmp_path), load_state(whole)
    assert same(ended.steps, expected.steps)
    assert ended.accuracy == expected.accuracy
    assert [(epoch.loss, epoch.accuracy) for epoch in ended.epochs] == [
        (epoch.loss, epoch.accuracy) for epoch in expected.epochs
    ]


def test_same_checkpoint(tmp_path: Path, few: Data, whole: Path) -> None:
    """The best network of a resumed run is that of the run that was not stopped."""
    killed_after(7, tmp_path, few)
    train(RECIPE, few, tmp_path, resume=True)
    first, second = (torch.load(folder / "checkpoint.pt", weights_only=True)["network"] for folder in (tmp_path, whole))
    assert same(first, second)


def test_killed_between_checkpoint_and_state(
    tmp_path: Path, few: Data, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill after the checkpoint was written and before the state was repeats the epoch, to the same end."""

    def killed(_: Steps) -> None:
        raise Killed

    def stop_writing(epoch: Epoch) -> None:
        if epoch.epoch == 1:
            monkeypatch.setattr(Steps, "state", killed)

    with pytest.raises(Killed):
        train(RECIPE, few, tmp_path, Told(stop_writing))
    monkeypatch.undo()
    train(RECIPE, few, tmp_path, resume=True)
    assert same(load_state(tmp_path).steps, load_state(whole).steps)


def test_finished(few: Data, whole: Path) -> None:
    """Resuming a finished run trains nothing more."""
    told: list[Epoch] = []
    train(RECIPE, few, whole, Told(told.append), resume=True)
    assert told == []


def test_more_epochs(tmp_path: Path, few: Data) -> None:
    """A finished run goes on when more epochs are asked for."""
    train(replace(RECIPE, epochs=1), few, tmp_path)
    told: list[Epoch] = []
    train(replace(RECIPE, epochs=2), few, tmp_path, Told(told.append), resume=True)
    assert [epoch.epoch for epoch in told] == [2]


def test_another_recipe(few: Data, whole: Path) -> None:
    """A run is not resumed by another recipe; the error names what differs."""
    with pytest.raises(SetupError, match=r"learning_rate was 0\.1 and is 0\.2"):
        train(replace(RECIPE, learning_rate=0.2), few, whole, resume=True)


def test_other_processes(few: Data, tmp_path: Path) -> None:
    """A run is not resumed by another number of processes, whose batches would be others."""
    train(replace(RECIPE, epochs=1), few, tmp_path)
    state = load_state(tmp_path)
    save_state(tmp_path, replace(state, among=state.among | {"processes": 2}))
    with pytest.raises(SetupError, match="processes was 2 and is 1"):
        train(RECIPE, few, tmp_path, resume=True)


def test_other_data(few: Data, tmp_path: Path) -> None:
    """A run is not resumed with other pictures or classes than it began with."""
    train(replace(RECIPE, epochs=1), few, tmp_path)
    with pytest.raises(SetupError, match="pictures to train on was 48 and is 32"):
        train(RECIPE, replace(few, train=few.train.take(np.arange(32))), tmp_path, resume=True)
    with pytest.raises(SetupError, match="classes was"):
        train(RECIPE, replace(few, classes=(*few.classes[:-1], "ten")), tmp_path, resume=True)


def test_a_run_older_than_a_field(few: Data, tmp_path: Path) -> None:
    """A field that a run's recipe did not have yet counts as its default when the run is resumed."""
    train(replace(RECIPE, epochs=1), few, tmp_path)
    state = load_state(tmp_path)
    older = {name: value for name, value in state.recipe.items() if name != "cutout"}
    save_state(tmp_path, replace(state, recipe=older))
    with pytest.raises(SetupError, match="cutout was 0 and is 3"):
        train(replace(RECIPE, cutout=3), few, tmp_path, resume=True)
    train(RECIPE, few, tmp_path, resume=True)


def test_a_run_older_than_its_surroundings(few: Data, tmp_path: Path) -> None:
    """A run that does not tell among what it was trained is resumed, and known to be finished."""
    train(replace(RECIPE, epochs=1), few, tmp_path)
    contents = torch.load(tmp_path / "state.pt", weights_only=True)
    del contents["among"]
    torch.save(contents, tmp_path / "state.pt")
    assert "finished run of 1 epochs" in held(tmp_path)
    train(RECIPE, few, tmp_path, resume=True)
    assert len(load_state(tmp_path).epochs) == RECIPE.epochs


def test_ended_by_patience(few: Data, tmp_path: Path) -> None:
    """A run that ended early, for want of a better epoch, is not taken for one that was stopped."""
    train(replace(RECIPE, learning_rate=1e-12, patience=1), few, tmp_path)
    assert len(load_state(tmp_path).epochs) < RECIPE.epochs
    assert "finished run" in held(tmp_path)


def test_a_large_seed(few: Data, tmp_path: Path) -> None:
    """The largest seed that is taken trains."""
    train(replace(RECIPE, epochs=1, seed=2**63 - 1), few, tmp_path)


def test_a_folder_that_cannot_be_made(few: Data, tmp_path: Path) -> None:
    """A run whose folder is a file is an error that says to name another."""
    (tmp_path / "run").write_text("a file")
    with pytest.raises(SetupError, match="name another folder by --run"):
        train(RECIPE, few, tmp_path / "run")


def test_another_promise(few: Data, tmp_path: Path) -> None:
    """A run goes on whose recipe promises another accuracy by now, measured elsewhere."""
    train(replace(RECIPE, epochs=1), few, tmp_path)
    train(replace(RECIPE, expected_accuracy=0.5, measured="elsewhere"), few, tmp_path, resume=True)
    assert len(load_state(tmp_path).epochs) == RECIPE.epochs


def test_resumed_is_told(few: Data, tmp_path: Path) -> None:
    """Before the first step of a resumed run its last epoch is told, so that what is shown goes on from there."""
    train(replace(RECIPE, epochs=1), few, tmp_path)
    told: list[object] = []
    train(RECIPE, few, tmp_path, Told(step=told.append, resumed=told.append), resume=True)
    assert isinstance(told[0], Epoch)
    assert told[0].epoch == 1


def test_nothing_to_resume(tmp_path: Path, few: Data) -> None:
    """Resuming a folder without a run is an error that says how to start one."""
    with pytest.raises(SetupError, match="without --resume"):
        train(RECIPE, few, tmp_path, resume=True)


@pytest.mark.parametrize("content", [b"", b"rubbish"])
def test_broken_state(tmp_path: Path, few: Data, content: bytes) -> None:
    """A state that cannot be read is an error with its name."""
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(SetupError, match=r"state\.pt is no state of a run"):
        train(RECIPE, few, tmp_path, resume=True)


def test_held(tmp_path: Path, few: Data, whole: Path) -> None:
    """What a folder holds is told: a run that ended, one that was stopped and how to go on, a network, or nothing."""
    assert held(tmp_path) == ""
    assert held(whole).startswith("a finished run of 3 epochs, ")
    killed_after(4, tmp_path, few)
    assert held(tmp_path) == "a run that stopped after 1 of 3 epochs: go on with it by --resume,"
    (tmp_path / "state.pt").unlink()
    assert held(tmp_path) == "a trained network:"
