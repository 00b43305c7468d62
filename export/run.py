"""The folder of a training run: what it was, its log and curves, and the state that it goes on from."""

import csv
import importlib.metadata
import json
import platform
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from export.checkpoint import FILE, save_whole
from export.data import Data
from export.processes import Processes
from export.recipes import Recipe
from service import hosts
from service.errors import SetupError

RECORD = "run.json"
LOG = "log.csv"
STATE = "state.pt"
CURVES = "curves.svg"

_DEFAULTS = {field.name: field.default for field in fields(Recipe) if field.default is not MISSING}
"""Of a recipe's fields: a run may be older than one of them."""


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
        among: what else its result depends on, by name, see `surroundings`.
        steps: see export.step.Steps.state.
        epochs: those that are done.
        accuracy: of the best of them.
    """

    recipe: dict[str, Any]
    among: dict[str, Any]
    steps: dict[str, Any]
    epochs: list[Epoch]
    accuracy: float


def begin(run: Path, recipe: Recipe, data: Data, processes: Processes) -> None:
    """Make the folder and write down what is trained, on what, by which versions and on what machine.

    Raises:
        SetupError: it cannot be written.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        (run / RECORD).write_text(json.dumps(_facts(recipe, data, processes), indent=2) + "\n")
    except OSError as error:
        raise SetupError(f"{run} cannot be written: {error.strerror}; name another folder by --run") from None


def _facts(recipe: Recipe, data: Data, processes: Processes) -> dict[str, Any]:
    device = processes.device
    versions = {name: importlib.metadata.version(name) for name in ("saccade", "torch", "numpy", "pillow")}
    return {
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


def surroundings(data: Data, processes: Processes, teachers: Sequence[str]) -> dict[str, Any]:
    """Return what the result of a run depends on beside its recipe, by what it is called in an error.

    `teachers` are the SHA-256 sums of their files.
    """
    return {
        "processes": processes.count,
        "classes": list(data.classes),
        "pictures to train on": len(data.train),
        "pictures to choose by": len(data.validation),
        "teachers": list(teachers),
    }


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
        # Runs are resumed that are older than what is told of their surroundings.
        return State(**{"among": {}, **contents, "epochs": [Epoch(**epoch) for epoch in contents["epochs"]]})
    except FileNotFoundError:
        raise SetupError(f"{run} holds no {STATE}, so there is nothing to resume; start without --resume") from None
    except Exception as error:  # noqa: BLE001 - torch raises whatever the bytes lead it to
        raise SetupError(f"{path} is no state of a run: {type(error).__name__}; delete it to start anew") from None


def check_resumed(state: State, recipe: Recipe, among: dict[str, Any]) -> None:
    """Refuse to go on by another recipe; only the number of epochs may change, and the rest of the schedule with it.

    Raises:
        SetupError: names the fields that differ, or what else does.
    """
    # What a recipe promises may be another figure by now, and changes nothing of what it does.
    told = _differences(state.recipe, recipe.fields(), but=("epochs", "expected_accuracy", "measured"))
    if told:
        raise SetupError(f"the run to resume was started by another recipe: {told}; give it the same, or another --run")
    told = _differences(state.among, {name: value for name, value in among.items() if name in state.among})
    if told:
        raise SetupError(f"the run to resume was another one: {told}; give it the same, or start anew by another --run")


def _differences(before: dict[str, Any], now: dict[str, Any], but: Sequence[str] = ()) -> str:
    """Return in words what is another value now; what was not known before had its default."""
    other = [name for name, value in now.items() if name not in but and before.get(name, _DEFAULTS.get(name)) != value]
    return "; ".join(f"{name} was {before.get(name, _DEFAULTS.get(name))!r} and is {now[name]!r}" for name in other)


def stopped(epochs: Sequence[Epoch], patience: int) -> bool:
    """Return whether none of the last `patience` epochs was better than all before them; with 0 never."""
    reached = [epoch.accuracy for epoch in epochs]
    return bool(patience) and len(reached) > patience and max(reached[-patience:]) <= max(reached[:-patience])


def held(run: Path) -> str:
    """Return in words what a new run in this folder would overwrite, and how to go on with it; empty for nothing."""
    if not (run / STATE).is_file():
        return "a trained network:" if (run / FILE).is_file() else ""
    state = load_state(run)
    done, total = len(state.epochs), state.recipe["epochs"]
    if done < total and not stopped(state.epochs, state.recipe["patience"]):
        return f"a run that stopped after {done} of {total} epochs: go on with it by --resume,"
    return f"a finished run of {done} epochs, {state.accuracy:.2%} of its validation split:"


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
