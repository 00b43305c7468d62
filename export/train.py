"""Training: one readable loop, seeded, with a checkpoint of the best epoch, a CSV log and exact resume."""

import csv
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from export import architectures, checkpoint
from export.checkpoint import Checkpoint
from export.data import Data, prepare
from export.evaluate import accuracy
from export.recipes import Recipe
from export.step import Steps
from service.errors import SetupError
from service.manifest import Preprocessing

LOG = "log.csv"
STATE = "state.pt"


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the training split: mean loss, top-1 on the validation split, seconds, pictures a second."""

    epoch: int
    loss: float
    accuracy: float
    seconds: float
    images_per_second: float


def train(
    recipe: Recipe,
    data: Data,
    run: Path,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
    *,
    resume: bool = False,
) -> Checkpoint:
    """Train by the recipe; leave checkpoint.pt and log.csv in `run` and return the best epoch by validation accuracy.

    Args:
        recipe: what to do.
        data: what to do it on.
        run: folder of this run; it is made.
        on_epoch: told of every epoch.
        resume: go on after the last whole epoch of this run, to the same result as if it had never stopped.
    """
    torch.manual_seed(recipe.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trained, images = _untrained(recipe, data)
    pictures, labels = torch.from_numpy(images).to(device), torch.from_numpy(data.train.labels).to(device)
    validation = prepare(data.validation, trained.spec)
    total = recipe.epochs * math.ceil(len(labels) / recipe.batch_size)
    steps = Steps(recipe, trained.classifier(), total=total, device=device)
    trained = replace(trained, network=steps.average.network)
    run.mkdir(parents=True, exist_ok=True)
    rows: list[list[float]] = []
    if resume:
        state = _load_state(run)
        steps.restore(state["steps"])
        rows = state["rows"]
        trained = replace(trained, accuracy=state["accuracy"])
    for number in range(len(rows) + 1, recipe.epochs + 1):
        started = time.perf_counter()
        loss = _pass(steps, pictures, labels, recipe.batch_size)
        rate = len(labels) / (time.perf_counter() - started)
        reached = accuracy(steps.average.eval().predict, validation, data.validation.labels)
        epoch = Epoch(number, loss, reached, time.perf_counter() - started, rate)
        rows.append([getattr(epoch, column) for column in Epoch.__slots__])
        if reached >= trained.accuracy:  # of equals the later one: it was trained longer, at a lower rate
            trained = replace(trained, accuracy=reached)
            checkpoint.save(trained, run)
        _save_state(run, {"steps": steps.state(), "rows": rows, "accuracy": trained.accuracy})
        _write_log(run, rows)
        on_epoch(epoch)
    return checkpoint.load(run)


def _pass(steps: Steps, pictures: Tensor, labels: Tensor, batch_size: int) -> float:
    """Learn from every picture once, in a new order; return the mean loss."""
    steps.model.train()
    total = torch.zeros((), device=labels.device)
    for batch in torch.split(torch.randperm(len(labels)).to(labels.device), batch_size):
        total += steps.step(pictures[batch], labels[batch]) * len(batch)
    return float(total) / len(labels)


def _save_state(run: Path, state: dict[str, Any]) -> None:
    partial = run / f"{STATE}.partial"
    torch.save(state, partial)
    partial.replace(run / STATE)


def _load_state(run: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(run / STATE, weights_only=True)
    except FileNotFoundError:
        raise SetupError(f"{run} holds no {STATE}: nothing to resume; start without --resume") from None
    return state


def _write_log(run: Path, rows: list[list[float]]) -> None:
    with (run / LOG).open("w", newline="") as file:
        log = csv.writer(file)
        log.writerow(Epoch.__slots__)
        log.writerows(rows)


def _untrained(recipe: Recipe, data: Data) -> tuple[Checkpoint, npt.NDArray[np.uint8]]:
    """Return the network as it starts, and the training pictures as it takes them."""
    architecture = architectures.find(recipe.architecture)
    channels: Literal[1, 3] = 3 if data.train.images.ndim == 4 else 1
    spec = Preprocessing(height=architecture.size, width=architecture.size, channels=channels)
    images = prepare(data.train, spec)
    mean, std = channel_statistics(images)
    network = architecture.build(channels, len(data.classes))
    return Checkpoint(recipe, data.classes, spec, mean, std, accuracy=0.0, network=network), images


def channel_statistics(images: npt.NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel of uint8 [N, H, W, C], of pixels from 0 to 1."""
    mean = images.mean(axis=(0, 1, 2), dtype=np.float64) / 255
    std = images.std(axis=(0, 1, 2), dtype=np.float64) / 255
    return tuple(mean.tolist()), tuple(np.maximum(std, 1e-3).tolist())
