"""A trained network with its normalisation and softmax, and the checkpoint file that keeps it."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from export import architectures, model_file
from export.recipes import Recipe
from service.errors import SetupError
from service.manifest import Preprocessing

FILE = model_file.CHECKPOINT


class Classifier(nn.Module):
    """What is served: uint8 [N, H, W, C] in, probabilities [N, classes] out; normalisation and softmax inside.

    The transposition comes first, on bytes, then cast, multiplication and addition in NCHW: the other order costs ten
    times as much in ONNX Runtime (1550 us a picture of 224x224x3 instead of 126 to 186).
    """

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        deviation = torch.tensor(std).reshape(1, -1, 1, 1)
        self.register_buffer("factor", 1 / (255 * deviation))
        self.register_buffer("offset", -torch.tensor(mean).reshape(1, -1, 1, 1) / deviation)

    def normalise(self, image: Tensor) -> Tensor:
        """Return float [N, C, H, W], normalised, of pictures uint8 [N, H, W, C]."""
        return image.permute(0, 3, 1, 2).to(torch.float32) * self.get_buffer("factor") + self.get_buffer("offset")

    def logits(self, image: Tensor) -> Tensor:
        """Return logits [N, classes] of pictures uint8 [N, H, W, C]."""
        logits: Tensor = self.network(self.normalise(image))
        return logits

    def forward(self, image: Tensor) -> Tensor:
        """Return probabilities [N, classes] of pictures uint8 [N, H, W, C]."""
        return functional.softmax(self.logits(image), dim=1)

    def predict(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return probabilities as arrays, for export.evaluate; computed where the network is."""
        with torch.inference_mode():
            pictures = torch.from_numpy(images).to(self.get_buffer("factor").device)
            probabilities: npt.NDArray[np.float32] = self(pictures).cpu().numpy()
        return probabilities


class Trained(Protocol):
    """What export needs of a trained network, wherever its weights come from."""

    @property
    def spec(self) -> Preprocessing:
        """How a picture becomes its input."""

    def classifier(self) -> Classifier:
        """Return what is served, in evaluation mode."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A trained network and all that is needed to serve it.

    Attributes:
        recipe: how it was trained.
        classes: the labels, in order of their index.
        spec: how a picture becomes its input.
        mean: of each channel, of pixels from 0 to 1; likewise `std`.
        accuracy: top-1 on the validation split.
        network: gives logits.
    """

    recipe: Recipe
    classes: tuple[str, ...]
    spec: Preprocessing
    mean: tuple[float, ...]
    std: tuple[float, ...]
    accuracy: float
    network: nn.Module

    def classifier(self) -> Classifier:
        """Return what is served, in evaluation mode."""
        return Classifier(self.network, self.mean, self.std).eval()


def save(checkpoint: Checkpoint, run: Path) -> None:
    """Write the checkpoint of a run, whole or not at all.

    Raises:
        SetupError: see `save_whole`.
    """
    contents = {
        "recipe": checkpoint.recipe.fields(),
        "classes": list(checkpoint.classes),
        "spec": checkpoint.spec.model_dump(),
        "mean": list(checkpoint.mean),
        "std": list(checkpoint.std),
        "accuracy": checkpoint.accuracy,
        "network": checkpoint.network.state_dict(),
    }
    run.mkdir(parents=True, exist_ok=True)
    save_whole(contents, run / FILE)


def save_whole(contents: dict[str, Any], path: Path) -> None:
    """Write a file of torch. A kill leaves the old one or the new one, never half of one.

    Raises:
        SetupError: it cannot be written; the old one is left as it was.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            torch.save(contents, file)
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        # Where the disk is full torch raises its own, "unexpected pos 704 vs 598", while the system's is handled.
        system = error.__context__ if isinstance(error.__context__, OSError) else error
        raise SetupError(f"{path} cannot be written: {getattr(system, 'strerror', None) or system}") from None


def load(run: Path) -> Checkpoint:
    """Return the checkpoint of a run, its network in evaluation mode.

    Raises:
        SetupError: there is none, or it is not ours.
    """
    path = run / FILE
    try:
        contents: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        recipe = Recipe(**contents["recipe"])
        spec = Preprocessing(**contents["spec"])
        network = architectures.find(recipe.architecture).build(spec.channels, len(contents["classes"]))
        network.load_state_dict(contents["network"])
        return Checkpoint(
            recipe=recipe,
            classes=tuple(contents["classes"]),
            spec=spec,
            mean=tuple(contents["mean"]),
            std=tuple(contents["std"]),
            accuracy=contents["accuracy"],
            network=network.eval(),
        )
    except FileNotFoundError:
        raise SetupError(f"{run} holds no {FILE}; make one with `saccade train`") from None
    except SetupError:
        raise
    except Exception as error:  # noqa: BLE001 - torch raises whatever the bytes lead it to
        raise SetupError(f"{path} is no checkpoint of saccade: {type(error).__name__}") from None
