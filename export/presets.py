"""Presets: how pictures are prepared for published weights, by the name of the data that they were trained on."""

from dataclasses import dataclass
from typing import Any, Literal

from service import foreign
from service.errors import SetupError
from service.manifest import Preprocessing


@dataclass(frozen=True, slots=True)
class Preset:
    """How a picture becomes a network's input: (pixel * scale - mean) / std, a pixel being 0 to 255.

    Attributes:
        name: what it is called by.
        mean: of each channel, in the network's order of colours, after `scale`; likewise `std`.
        std: of each channel.
        scale: what a pixel is multiplied by; with 1/255 mean and std are of pixels from 0 to 1.
        order: of the colours that the network takes.
        resize: what the shorter side is resized to before the middle is cut out, in pixels; 0: the whole picture is
            stretched to the network's input.
        size: of the middle that is cut out; 0 with stretched pictures, which fit a network of any size.
    """

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 1 / 255
    order: Literal["RGB", "BGR"] = "RGB"
    resize: int = 0
    size: int = 0

    @property
    def channels(self) -> Literal[1, 3]:
        """1 for grey pictures, 3 for colour."""
        return 1 if len(self.mean) == 1 else 3

    @property
    def framing(self) -> dict[str, Any]:
        """Fields of a manifest's preprocessing: what part of a picture is kept."""
        if not self.resize:
            return {"fit": "stretch", "crop_fraction": 1.0}
        return {"fit": "crop", "crop_fraction": self.size / self.resize}

    @property
    def numbers(self) -> dict[str, Any]:
        """Fields of a manifest's preprocessing: the arithmetic, for a graph that does not hold it."""
        return {"scale": self.scale, "mean": self.mean, "std": self.std, "order": self.order}


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("imagenet", **foreign.IMAGENET, resize=256, size=224),
        Preset("imagenet-v2", **foreign.IMAGENET, resize=232, size=224),  # torchvision's IMAGENET1K_V2 weights
        Preset("imagenet-caffe", **foreign.CAFFE, resize=256, size=224),
        Preset("cifar10", **foreign.CIFAR10),
        Preset("mnist", (0.1307,), (0.3081,)),
    )
}


def find(name: str) -> Preset:
    """Return the preset of that name.

    Raises:
        SetupError: there is none; names those there are.
    """
    if name not in PRESETS:
        raise SetupError(f"no preset {name!r}; there are: {', '.join(PRESETS)}")
    return PRESETS[name]


def preprocessing(name: str, size: int) -> Preprocessing:
    """Return how a picture becomes the input of a graph that holds the arithmetic, `size` pixels high and wide.

    Raises:
        SetupError: there is no such preset, or it is for another size; names those that fit.
    """
    preset = find(name)
    if preset.size not in {0, size}:
        fitting = ", ".join(other for other, its in PRESETS.items() if its.size in {0, size})
        raise SetupError(
            f"preset {name} gives {preset.size}x{preset.size} pixels, the network takes {size}x{size}; use {fitting}"
        )
    return Preprocessing(height=size, width=size, channels=preset.channels, **preset.framing)
