"""Training: one readable loop, seeded, with a checkpoint of the best epoch and a CSV log."""

import csv
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from export import architectures, checkpoint
from export.checkpoint import Checkpoint
from export.data import Data, prepare
from export.evaluate import accuracy
from export.recipes import Recipe
from service.manifest import Preprocessing

LOG = "log.csv"


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the training split: mean loss, top-1 on the validation split, seconds."""

    epoch: int
    loss: float
    accuracy: float
    seconds: float


def train(recipe: Recipe, data: Data, run: Path, on_epoch: Callable[[Epoch], None] = lambda _: None) -> Checkpoint:
    """Train by the recipe; leave checkpoint.pt and log.csv in `run` and return the best epoch by validation accuracy.

    Args:
        recipe: what to do.
        data: what to do it on.
        run: folder of this run; it is made.
        on_epoch: told of every epoch.
    """
    torch.manual_seed(recipe.seed)
    trained, images = _untrained(recipe, data)
    model = trained.classifier()
    pictures, labels = torch.from_numpy(images), torch.from_numpy(data.train.labels)
    validation = prepare(data.validation, trained.spec)
    steps = recipe.epochs * math.ceil(len(labels) / recipe.batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps)
    run.mkdir(parents=True, exist_ok=True)
    with (run / LOG).open("w", newline="") as file:
        log = csv.writer(file)
        log.writerow(Epoch.__slots__)
        for number in range(1, recipe.epochs + 1):
            started = time.perf_counter()
            model.train()
            total = 0.0
            for batch in torch.split(torch.randperm(len(labels)), recipe.batch_size):
                logits = model.network(augment(model.normalise(pictures[batch]), recipe))
                loss = functional.cross_entropy(logits, labels[batch], label_smoothing=recipe.label_smoothing)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                total += loss.item() * len(batch)
            model.eval()
            reached = accuracy(model.predict, validation, data.validation.labels)
            epoch = Epoch(number, total / len(labels), reached, time.perf_counter() - started)
            log.writerow([getattr(epoch, column) for column in Epoch.__slots__])
            file.flush()
            on_epoch(epoch)
            if reached >= trained.accuracy:  # of equals the later one: it was trained longer, at a lower rate
                trained = replace(trained, accuracy=reached)
                checkpoint.save(trained, run)
    return checkpoint.load(run)


def _untrained(recipe: Recipe, data: Data) -> tuple[Checkpoint, npt.NDArray[np.uint8]]:
    """Return the network as it starts, and the training pictures as it takes them."""
    architecture = architectures.find(recipe.architecture)
    channels: Literal[1, 3] = 3 if data.train.images.ndim == 4 else 1
    spec = Preprocessing(height=architecture.size, width=architecture.size, channels=channels)
    images = prepare(data.train, spec)
    mean, std = channel_statistics(images)
    network = architecture.build(channels, len(data.classes))
    return Checkpoint(recipe, data.classes, spec, mean, std, accuracy=0.0, network=network), images


def augment(inputs: Tensor, recipe: Recipe) -> Tensor:
    """Return normalised pictures [N, C, H, W], each shifted, scaled and rotated at random as the recipe allows."""
    count = len(inputs)
    if recipe.invert:
        # Around the middle grey of the batch: what is outside the picture stays outside.
        middle = (inputs.amax() + inputs.amin()) / 2
        flip = torch.rand(count, 1, 1, 1) < recipe.invert
        inputs = torch.where(flip, 2 * middle - inputs, inputs)
    if not (recipe.shift or recipe.scale or recipe.rotate):
        return inputs

    def uniform(bound: float) -> Tensor:
        return (torch.rand(count) * 2 - 1) * bound

    angle, size = uniform(math.radians(recipe.rotate)), 1 + uniform(recipe.scale)
    cosine, sine = angle.cos() / size, angle.sin() / size
    across, down = uniform(2 * recipe.shift), uniform(2 * recipe.shift)
    matrix = torch.stack([torch.stack([cosine, -sine, across], 1), torch.stack([sine, cosine, down], 1)], 1)
    grid = functional.affine_grid(matrix, list(inputs.shape), align_corners=False)
    return functional.grid_sample(inputs, grid, padding_mode="border", align_corners=False)


def channel_statistics(images: npt.NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel of uint8 [N, H, W, C], of pixels from 0 to 1."""
    mean = images.mean(axis=(0, 1, 2), dtype=np.float64) / 255
    std = images.std(axis=(0, 1, 2), dtype=np.float64) / 255
    return tuple(mean.tolist()), tuple(np.maximum(std, 1e-3).tolist())
