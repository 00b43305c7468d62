import csv
import importlib.metadata
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export import checkpoint, data
from export.checkpoint import Checkpoint, Classifier
from export.evaluate import accuracy
from export.run import Epoch, load_state
from export.train import Step, Told, channel_statistics, input_of, train
from service import hosts
from service.errors import SetupError
from tests.unit.export.conftest import QUICK


def test_log_and_checkpoint_agree(run: Path, trained: Checkpoint, digits: data.Data) -> None:
    """The checkpoint is that of the log's best epoch, and is as accurate as it says."""
    with (run / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert trained.accuracy == max(float(row["accuracy"]) for row in rows)
    images = data.prepare(digits.validation, trained.spec)
    assert accuracy(trained.classifier().predict, images, digits.validation.labels) == trained.accuracy


def test_it_learns(run: Path) -> None:
    """The loss falls from epoch to epoch."""
    with (run / "log.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert losses == sorted(losses, reverse=True)


def test_same_seed_same_network(tmp_path: Path, digits: data.Data) -> None:
    """The same recipe gives the same weights, another seed others."""
    short = replace(QUICK, epochs=1)
    few = replace(digits, train=digits.train.take(np.arange(64)), validation=digits.validation.take(np.arange(16)))
    first, again, other = (
        torch.cat([weights.flatten() for weights in train(recipe, few, tmp_path / name).network.state_dict().values()])
        for name, recipe in (("a", short), ("b", short), ("c", replace(short, seed=1)))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_progress_is_told(tmp_path: Path, digits: data.Data) -> None:
    """Every epoch is told as it ends."""
    told: list[Epoch] = []
    few = replace(digits, train=digits.train.take(np.arange(64)), validation=digits.validation.take(np.arange(16)))
    train(replace(QUICK, epochs=2), few, tmp_path, Told(told.append))
    assert [epoch.epoch for epoch in told] == [1, 2]


def few_of(digits: data.Data) -> data.Data:
    """Return enough of the digits for a run of a second."""
    return replace(digits, train=digits.train.take(np.arange(96)), validation=digits.validation.take(np.arange(32)))


def test_steps_are_told(tmp_path: Path, digits: data.Data) -> None:
    """Steps are told with how many there are in all, and pictures a second."""
    told: list[Step] = []
    train(replace(QUICK, epochs=1), few_of(digits), tmp_path, Told(step=told.append))
    assert {step.total for step in told} == {3}
    assert all(step.images_per_second > 0 for step in told)


@pytest.mark.parametrize(("batch_size", "steps"), [(0, 2), (1, 192), (32, 6), (64, 4)])
def test_batch_sizes(tmp_path: Path, digits: data.Data, batch_size: int, steps: int) -> None:
    """The whole split, single pictures and anything between: the last batch of an epoch may be smaller."""
    train(replace(QUICK, epochs=2, batch_size=batch_size), few_of(digits), tmp_path)
    assert load_state(tmp_path).steps["done"] == steps


def test_record(run: Path, digits: data.Data) -> None:
    """The run's record says the recipe, the seed, the data, the versions and the machine."""
    record = json.loads((run / "run.json").read_text())
    assert record["recipe"] == QUICK.fields()
    assert record["seed"] == QUICK.seed
    assert record["data"]["train"] == len(digits.train)
    assert record["versions"]["torch"] == importlib.metadata.version("torch")
    assert record["device"] == (torch.cuda.get_device_name() if torch.cuda.is_available() else hosts.cpu_name())
    assert record["threads"] == torch.get_num_threads()
    assert record["processes"] == 1


def test_curves(run: Path) -> None:
    """The run's folder holds a drawing of loss and accuracy."""
    drawn = (run / "curves.svg").read_text()
    assert "<svg" in drawn


def test_curves_of_a_stopped_run(tmp_path: Path, digits: data.Data) -> None:
    """A run that ends before its last epoch leaves a drawing of those that it did."""

    class Stopped(Exception):
        pass

    def stop(_: Epoch) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        train(replace(QUICK, epochs=2), few_of(digits), tmp_path, Told(stop))
    assert "<svg" in (tmp_path / "curves.svg").read_text()


@pytest.mark.parametrize("name", ["", "checkpoint.pt"])
def test_a_run_does_not_start_from_itself(tmp_path: Path, digits: data.Data, name: str) -> None:
    """A run in the folder that it starts from is refused before anything is overwritten."""
    train(replace(QUICK, epochs=1), few_of(digits), tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(SetupError, match=r"start names .*, the folder of this run itself; name another by --run"):
        train(replace(QUICK, epochs=1, start=str(tmp_path / name)), few_of(digits), tmp_path)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_early_stop(tmp_path: Path, digits: data.Data) -> None:
    """With patience 2 a run that gets no better ends two epochs after its best, and keeps that."""
    few, told, best = few_of(digits), list[Epoch](), list[dict[str, torch.Tensor]]()

    def tell(epoch: Epoch) -> None:
        told.append(epoch)
        if epoch.epoch == 1:
            best.append(checkpoint.load(tmp_path).network.state_dict())
            few.validation.labels[:] = -1  # so that all later answers are wrong

    kept = train(replace(QUICK, epochs=30, patience=2, start=""), few, tmp_path, Told(tell))
    assert [epoch.accuracy > 0 for epoch in told] == [True, False, False]
    assert kept.accuracy == told[0].accuracy
    assert all(torch.equal(weights, best[0][name]) for name, weights in kept.network.state_dict().items())


def test_of_equals_the_later_is_kept(tmp_path: Path, digits: data.Data) -> None:
    """Of epochs of one accuracy the last is kept: it was trained longer, at a lower rate."""
    still = replace(QUICK, epochs=3, learning_rate=1e-12, average=0.0, start="")
    told: list[Epoch] = []

    def tell(epoch: Epoch) -> None:
        told.append(epoch)
        if epoch.epoch < 3:
            (tmp_path / checkpoint.FILE).unlink()

    assert train(still, few_of(digits), tmp_path, Told(tell)).accuracy == told[0].accuracy == told[2].accuracy


def test_astray(tmp_path: Path, digits: data.Data) -> None:
    """A loss that is no number any more ends the run with what to change."""
    wild = replace(QUICK, optimizer="sgd", learning_rate=1e9, warmup=0.0, epochs=5)
    with pytest.raises(SetupError, match=r"loss of epoch \d is nan.*--set clip=1"):
        train(wild, few_of(digits), tmp_path)


@pytest.mark.parametrize(
    "fields",
    [
        {"optimizer": "sgd", "learning_rate": 0.05, "clip": 1.0},
        {"loss": "mse"},
        {"mixup": 0.4},
        {"mixup": 0.4, "loss": "mse"},
        {"label_smoothing": 0.1, "schedule": "linear"},
        {"average": 0.9},
        {"precision": "bf16"},
        {"precision": "fp16"},
        {"crop": 2, "cutout": 4},
    ],
    ids=str,
)
def test_every_setting_learns(tmp_path: Path, digits: data.Data, fields: dict[str, Any]) -> None:
    """Each optimizer, loss, precision and augmentation learns the digits far better than chance."""
    some = replace(digits, train=digits.train.take(np.arange(320)), validation=digits.validation.take(np.arange(100)))
    assert train(replace(QUICK, epochs=8, **fields), some, tmp_path).accuracy > 0.5


def test_a_spec_learns(tmp_path: Path, digits: data.Data) -> None:
    """A network that is spelled out is trained like any other, and its checkpoint makes it again."""
    spec = "convnet:input28,[[conv8]*1,pool]*2,[fc16]*1"
    trained = train(replace(QUICK, epochs=1, architecture=spec), few_of(digits), tmp_path)
    assert trained.recipe.architecture == spec
    assert [tuple(layer.weight.shape) for layer in trained.network.modules() if isinstance(layer, torch.nn.Conv2d)] == [
        (8, 1, 3, 3),
        (8, 8, 3, 3),
    ]


def test_start_size_needs_a_network_of_any_size(tmp_path: Path, digits: data.Data) -> None:
    """Small pictures at first, for a network of one input size, are an error that says so."""
    with pytest.raises(SetupError, match="start_size is 20, but lenet5 takes pictures of 28x28 only"):
        train(replace(QUICK, start_size=20), few_of(digits), tmp_path)


def test_channels_follow_the_data(digits: data.Data) -> None:
    """Grey pictures make a network of one channel, coloured ones of three; a recipe may ask for another."""
    colours = np.stack([digits.train.images] * 3, axis=-1)
    coloured = replace(digits, train=data.Pictures(colours, digits.train.labels))
    assert input_of(QUICK, digits).channels == 1
    assert input_of(QUICK, coloured).channels == 3
    assert input_of(replace(QUICK, channels=1), coloured).channels == 1


def test_checkpoint_comes_back(trained: Checkpoint, tmp_path: Path) -> None:
    """A checkpoint that was saved is loaded equal, field by field and weight by weight."""
    checkpoint.save(trained, tmp_path)
    loaded = checkpoint.load(tmp_path)
    assert replace(loaded, network=trained.network) == trained
    for name, weights in trained.network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], weights)


@pytest.mark.parametrize("file", ["checkpoint.pt", "state.pt"])
def test_full_disk(tmp_path: Path, run: Path, file: str) -> None:
    """Where the disk takes only a part of the new checkpoint or state, the reason is told and the old one stays."""
    shutil.copytree(run, tmp_path, dirs_exist_ok=True)
    before = (tmp_path / file).read_bytes()
    code = (
        "import resource, pathlib; from export import checkpoint; from export.run import load_state, save_state;"
        f"folder = pathlib.Path({str(tmp_path)!r}); trained, state = checkpoint.load(folder), load_state(folder);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
        + ("checkpoint.save(trained, folder)" if file == checkpoint.FILE else "save_state(folder, state)")
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"{file} cannot be written: File too large" in done.stderr
    assert (tmp_path / file).read_bytes() == before
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04"])
def test_broken_checkpoint(tmp_path: Path, content: bytes) -> None:
    """A file that is no checkpoint is an error with its name."""
    (tmp_path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(SetupError, match=r"checkpoint\.pt is no checkpoint"):
        checkpoint.load(tmp_path)


def test_missing_checkpoint(tmp_path: Path) -> None:
    """A folder without a checkpoint is an error that says how to make one."""
    with pytest.raises(SetupError, match="saccade train"):
        checkpoint.load(tmp_path)


def test_normalisation() -> None:
    """Normalised pictures have mean 0 and deviation 1, in every channel."""
    images = np.random.default_rng(0).integers(0, 200, (50, 8, 8, 3), dtype=np.uint8)
    mean, std = channel_statistics(images)
    normal = Classifier(torch.nn.Identity(), mean, std).normalise(torch.from_numpy(images))
    assert normal.shape == (50, 3, 8, 8)
    assert torch.allclose(normal.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-4)
    assert torch.allclose(normal.std(dim=(0, 2, 3)), torch.ones(3), atol=1e-3)
