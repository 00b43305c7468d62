"""Training: one readable loop, seeded, with a checkpoint of the best epoch, a record of the run and exact resume."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from export import architectures, checkpoint, finetune, processes, run, teacher
from export.checkpoint import Checkpoint
from export.data import Data, prepare
from export.evaluate import accuracy
from export.processes import Processes
from export.recipes import Recipe
from export.run import Epoch, State
from export.step import Steps
from service.errors import SetupError
from service.manifest import Preprocessing

ON_DEVICE = 8 << 30
"""Bytes of pictures that are kept on the GPU; more are sent batch by batch."""


@dataclass(frozen=True, slots=True)
class Step:
    """How far a run is: steps done and in all, the mean loss of this epoch so far, pictures a second in it."""

    done: int
    total: int
    loss: float
    images_per_second: float


@dataclass(frozen=True, slots=True)
class Told:
    """Whom a run tells how it goes: of every epoch, of the last one before a resume, of a step `every` so many seconds.

    Not of every step: asking a GPU for the loss waits until it is idle.
    """

    epoch: Callable[[Epoch], None] = lambda _: None
    step: Callable[[Step], None] = lambda _: None
    every: float = 0.25
    resumed: Callable[[Epoch], None] = lambda _: None


def train(
    recipe: Recipe,
    data: Data,
    folder: Path,
    told: Told | None = None,
    *,
    resume: bool = False,
    among: Processes | None = None,
) -> Checkpoint:
    """Train by the recipe, leave the run in `folder`, and return the best epoch by validation accuracy.

    Args:
        recipe: what to do.
        data: what to do it on.
        folder: of this run; it is made. It gets checkpoint.pt, run.json, log.csv, curves.svg and state.pt.
        told: who is told of epochs and steps.
        resume: go on after the last whole epoch of this run, to the same result as if it had never stopped.
        among: the processes that train together; None for this one alone.

    Raises:
        SetupError: recipe and data do not fit each other, or there is no such run to resume.
    """
    told, among = told or Told(), among or processes.alone()
    finetune.check_own(recipe, folder, resume=resume)
    best, steps, images = _begin(recipe, data, among)
    pictures, labels = torch.from_numpy(images), torch.from_numpy(data.train.labels)
    if pictures.nbytes <= ON_DEVICE:
        pictures, labels = pictures.to(among.device), labels.to(among.device)
    validation = prepare(data.validation, best.spec)
    epochs: list[Epoch] = []
    surroundings = run.surroundings(data, among, teacher.digests(recipe.teacher))
    if resume:
        state = run.load_state(folder)
        run.check_resumed(state, recipe, surroundings)
        steps.restore(state.steps)
        epochs, best = list(state.epochs), replace(best, accuracy=state.accuracy)
        told.resumed(epochs[-1])
    if among.first:
        run.begin(folder, recipe, data, among)
    try:
        while len(epochs) < recipe.epochs and not run.stopped(epochs, recipe.patience):
            started = time.perf_counter()
            loss, rate = _pass(steps, pictures, labels, len(epochs), told)
            reached = accuracy(steps.average.eval().predict, validation, data.validation.labels) if among.first else 0.0
            reached = among.told(reached)
            epochs.append(Epoch(len(epochs) + 1, loss, reached, time.perf_counter() - started, rate))
            better = reached >= best.accuracy  # of equals the later one: it was trained longer, at a lower rate
            best = replace(best, accuracy=reached) if better else best
            state = State(recipe.fields(), surroundings, steps.state(), epochs, best.accuracy)
            _keep(folder, state, best if better else None, among)
            told.epoch(epochs[-1])
    finally:  # of a run that was stopped too
        if among.first and epochs:
            run.draw_curves(folder, epochs, recipe.name)
    return checkpoint.load(folder) if among.first else best


def _begin(recipe: Recipe, data: Data, among: Processes) -> tuple[Checkpoint, Steps, npt.NDArray[np.uint8]]:
    """Return the network as it starts, what trains it, and the training pictures as it takes them."""
    among.check(recipe.batch_size)
    spec = input_of(recipe, data)
    teachers = teacher.load(recipe.teacher, data.classes, spec)  # which draws random numbers
    torch.manual_seed(recipe.seed)
    images = prepare(data.train, spec)
    mean, std = channel_statistics(images)
    architecture = architectures.find(recipe.architecture)
    network = architecture.build(spec.channels, len(data.classes))
    _check_sizes(network, spec, recipe)
    if recipe.start:
        finetune.start_from(network, recipe.start, classes=data.classes, training_only=architecture.training_only)
    start = Checkpoint(recipe, data.classes, spec, mean, std, accuracy=0.0, network=network)
    usable = len(images) - len(images) % among.count
    total = recipe.epochs * math.ceil(usable / (recipe.batch_size or usable))
    steps = Steps(
        recipe,
        start.classifier(),
        classes=len(data.classes),
        total=total,
        processes=among,
        teachers=[trained.classifier() for trained in teachers],
    )
    if among.rank:
        torch.manual_seed(_bounded(recipe.seed + among.rank))  # each process changes its own pictures in its own way
    return replace(start, network=steps.average.network), steps, images


def _check_sizes(network: nn.Module, spec: Preprocessing, recipe: Recipe) -> None:
    """Refuse to start from small pictures where the network takes those of one size only."""
    if not 0 < recipe.start_size < spec.height:
        return
    try:
        with torch.inference_mode():
            network.eval()(torch.zeros(1, spec.channels, recipe.start_size, recipe.start_size))
    except RuntimeError:
        raise SetupError(
            f"start_size is {recipe.start_size}, but {recipe.architecture} takes pictures of "
            f"{spec.height}x{spec.width} only; set it to 0"
        ) from None


def input_of(recipe: Recipe, data: Data | None = None) -> Preprocessing:
    """Return how pictures become the recipe's input; without data, whose colours say how many channels, three."""
    size = architectures.find(recipe.architecture).size
    grey = data is not None and all(picture.ndim == 2 for picture in data.train.images)
    channels: Literal[1, 3] = 1 if recipe.channels == 1 or (recipe.channels == 0 and grey) else 3
    return Preprocessing(height=size, width=size, channels=channels, fit=recipe.fit, crop_fraction=recipe.crop_fraction)


def _pass(steps: Steps, pictures: Tensor, labels: Tensor, epoch: int, told: Told) -> tuple[float, float]:
    """Learn from every picture once; return the mean loss, and pictures a second.

    The order follows from the seed and the epoch alone, so that all processes agree on it and a resumed run repeats it.
    """
    steps.train()
    among, started, seen = steps.processes, time.perf_counter(), 0
    generator = torch.Generator().manual_seed(_bounded(steps.recipe.seed * 1_000_003 + epoch))
    order = torch.randperm(len(labels), generator=generator)
    order = order[: len(order) - len(order) % among.count]
    total, last_told = torch.zeros((), device=among.device), 0.0
    for batch in torch.split(order, steps.recipe.batch_size or len(order)):
        own = among.share(batch).to(pictures.device)
        loss = steps.step(pictures[own].to(among.device), labels[own].to(among.device))
        total += loss * len(batch)
        seen += len(batch)
        rate = seen / (time.perf_counter() - started)
        if time.perf_counter() - last_told >= told.every:
            told.step(Step(steps.done, steps.total, float(total) / seen, rate))
            last_told = time.perf_counter()
    mean = among.mean(total / seen)
    if not math.isfinite(mean):
        raise SetupError(
            f"the loss of epoch {epoch + 1} is {mean}: training went astray; lower learning_rate "
            f"({steps.recipe.learning_rate:g}) or set clip, for example --set clip=1"
        )
    return mean, rate


def _bounded(seed: int) -> int:
    """Return a seed as torch takes one."""
    return seed % 2**63


def _keep(folder: Path, state: State, better: Checkpoint | None, among: Processes) -> None:
    """Write the checkpoint where it is a better one, then the state: a kill in between repeats the epoch."""
    if not among.first:
        return
    if better is not None:
        checkpoint.save(better, folder)
    run.save_state(folder, state)
    run.write_log(folder, state.epochs)


def channel_statistics(images: npt.NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel of uint8 [N, H, W, C], of pixels from 0 to 1."""
    pixels = images.reshape(-1, images.shape[-1])
    total, squares = np.zeros(images.shape[-1]), np.zeros(images.shape[-1])
    for part in np.array_split(pixels, max(1, len(pixels) >> 22)):  # in parts: numpy makes float64 of all at once
        total += part.sum(axis=0, dtype=np.float64)
        squares += np.square(part, dtype=np.float64).sum(axis=0)
    mean = total / len(pixels)
    std = np.sqrt(np.maximum(squares / len(pixels) - mean**2, 0))
    return tuple((mean / 255).tolist()), tuple(np.maximum(std / 255, 1e-3).tolist())
