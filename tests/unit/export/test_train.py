import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from export import checkpoint, data, recipes
from export.checkpoint import Checkpoint, Classifier
from export.evaluate import accuracy
from export.augment import augment
from export.train import Epoch, channel_statistics, train
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
    train(replace(QUICK, epochs=2), few, tmp_path, told.append)
    assert [epoch.epoch for epoch in told] == [1, 2]


def test_checkpoint_comes_back(trained: Checkpoint, tmp_path: Path) -> None:
    """A checkpoint that was saved is loaded equal, field by field and weight by weight."""
    checkpoint.save(trained, tmp_path)
    loaded = checkpoint.load(tmp_path)
    assert replace(loaded, network=trained.network) == trained
    for name, weights in trained.network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], weights)


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


def test_augmentation_off() -> None:
    """With all bounds 0 pictures stay as they are."""
    still = replace(QUICK, shift=0, scale=0, rotate=0, invert=0)
    pictures = torch.rand(4, 1, 8, 8)
    assert torch.equal(augment(pictures, still), pictures)


def test_augmentation_moves_within_bounds() -> None:
    """A shift of a quarter of the width never moves a dot further than that, and does move it."""
    torch.manual_seed(0)
    pictures = torch.zeros(200, 1, 16, 16)
    pictures[:, :, 7:9, 7:9] = 1
    moved = augment(pictures, replace(QUICK, shift=0.25, scale=0, rotate=0))
    columns = (moved.sum(dim=(1, 2)) * torch.arange(16)).sum(dim=1) / moved.sum(dim=(1, 2, 3))
    assert (columns - 7.5).abs().max() <= 4.01
    assert (columns - 7.5).abs().max() > 3


def test_inversion() -> None:
    """Inverting always turns black to white and white to black."""
    pictures = torch.tensor([[-1.0, 3.0]]).reshape(1, 1, 1, 2)
    inverted = augment(pictures, replace(QUICK, shift=0, scale=0, rotate=0, invert=1.0))
    assert inverted.flatten().tolist() == [3.0, -1.0]


def test_unknown_recipe() -> None:
    """An unknown recipe is an error that names those there are."""
    with pytest.raises(SetupError, match="lenet5-digits"):
        recipes.find("nothing")
