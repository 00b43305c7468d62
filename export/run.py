"""The folder of a training run: what it was, its log and curves, and the state that it goes on from."""

import csv
import importlib.metadata
import json
import platform
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from export.checkpoint import save_whole
from export.data import Data
from export.processes import Processes
from export.recipes import Recipe
from service import hosts
from service.errors import SetupError

RECORD = "run.json"
LOG = "log.csv"
STATE = "state.pt"
CURVES = "curves.svg"


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the training split.

    Attributes:
        epoch: its number, from 1.
        loss: mean over the training split, as it was when each picture was seen.
        accuracy: top-1 on the validation split.
        seconds: of both.
        images_per_second: of learning, over all processes.
    """

    epoch: int
    loss: float
    accuracy: float
    seconds: float
    images_per_second: float


@dataclass(frozen=True, slots=True)
class State:
    """Where a run is after a whole epoch.

    Attributes:
        recipe: its fields.
        steps: see export.step.Steps.state.
        epochs: those that are done.
        accuracy: of the best of them.
    """

    recipe: dict[str, Any]
    steps: dict[str, Any]
    epochs: list[Epoch]
    accuracy: float


def record(run: Path, recipe: Recipe, data: Data, processes: Processes) -> None:
    """Write down what is trained, on what, by which versions and on what machine."""
    device = processes.device
    versions = {name: importlib.metadata.version(name) for name in ("saccade", "torch", "numpy", "pillow")}
    contents = {
        "recipe": recipe.fields(),
        "seed": recipe.seed,
        "data": {
            "name": data.name,
            "classes": list(data.classes),
            "train": len(data.train),
            "validation": len(data.validation),
            "test": len(data.test),
            "left_out": list(data.bad),
        },
        "versions": {**versions, "python": platform.python_version()},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else hosts.cpu_name(),
        "threads": torch.get_num_threads(),
        "processes": processes.count,
    }
    (run / RECORD).write_text(json.dumps(contents, indent=2) + "\n")


def save_state(run: Path, state: State) -> None:
    """Write the state, whole or not at all."""
    contents = {field.name: getattr(state, field.name) for field in fields(State)}
    contents["epochs"] = [asdict(epoch) for epoch in state.epochs]
    save_whole(contents, run / STATE)


def load_state(run: Path) -> State:
    """Return the state of a run.

    Raises:
        SetupError: there is none, or it is not ours.
    """
    path = run / STATE
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
        return State(**{**contents, "epochs": [Epoch(**epoch) for epoch in contents["epochs"]]})
    except FileNotFoundError:
        raise SetupError(f"{run} holds no {STATE}, so there is nothing to resume; start without --resume") from None
    except Exception as error:  # noqa: BLE001 - torch raises whatever the bytes lead it to
        raise SetupError(f"{path} is no state of a run: {type(error).__name__}; start without --resume") from None


def check_resumed(state: State, recipe: Recipe) -> None:
    """Refuse to go on by another recipe; only the number of epochs may change, and the rest of the schedule with it.

    Raises:
        SetupError: names the fields that differ.
    """
    now = recipe.fields()
    other = [name for name, value in now.items() if name != "epochs" and state.recipe.get(name, value) != value]
    if other:
        told = "; ".join(f"{name} was {state.recipe[name]!r} and is {now[name]!r}" for name in other)
        raise SetupError(f"the run to resume was started by another recipe: {told}; give it the same, or another --run")


def unfinished(run: Path) -> str:
    """Return in words how far a run is that was not finished; empty where there is none or it was."""
    if not (run / STATE).is_file():
        return ""
    state = load_state(run)
    total = state.recipe["epochs"]
    return f"after {len(state.epochs)} of {total} epochs" if len(state.epochs) < total else ""


def write_log(run: Path, epochs: list[Epoch]) -> None:
    """Write one line an epoch, as CSV."""
    with (run / LOG).open("w", newline="") as file:
        log = csv.writer(file)
        log.writerow(Epoch.__slots__)
        log.writerows(asdict(epoch).values() for epoch in epochs)


def draw_curves(run: Path, epochs: list[Epoch], name: str) -> None:
    """Draw loss and accuracy over the epochs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    losses = figure.subplots()
    numbers = [epoch.epoch for epoch in epochs]
    losses.plot(numbers, [epoch.loss for epoch in epochs], color="tab:blue")
    losses.set_xlabel("epoch")
    losses.set_ylabel("loss, training", color="tab:blue")
    accuracies = losses.twinx()
    accuracies.plot(numbers, [100 * epoch.accuracy for epoch in epochs], color="tab:orange")
    accuracies.set_ylabel("accuracy, validation (%)", color="tab:orange")
    losses.set_title(name)
    figure.savefig(run / CURVES)
