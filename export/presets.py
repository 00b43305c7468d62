"""Presets: how pictures are prepared for published weights, by the name of the data that they were trained on."""

from dataclasses import dataclass
from typing import Literal

from service.errors import SetupError
from service.manifest import Preprocessing


@dataclass(frozen=True, slots=True)
class Preset:
    """How a picture becomes a network's input.

    Attributes:
        mean: of each channel, of pixels from 0 to 1; likewise `std`.
        resize: what the shorter side is resized to before the middle is cut out, in pixels; 0: the whole picture is
            stretched to the network's input.
        size: of the middle that is cut out; 0 with stretched pictures, which fit a network of any size.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int = 0
    size: int = 0

    @property
    def channels(self) -> Literal[1, 3]:
        """1 for grey pictures, 3 for colour."""
        return 1 if len(self.mean) == 1 else 3


_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

PRESETS = {
    "imagenet": Preset(*_IMAGENET, resize=256, size=224),
    "imagenet-v2": Preset(*_IMAGENET, resize=232, size=224),  # torchvision's IMAGENET1K_V2 weights
    "cifar10": Preset((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "mnist": Preset((0.1307,), (0.3081,)),
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
    """Return how a picture becomes the input, `size` pixels high and wide, by a preset.

    Raises:
        SetupError: there is no such preset, or it is for another size; names those that fit.
    """
    preset = find(name)
    if preset.size not in {0, size}:
        fitting = ", ".join(other for other, its in PRESETS.items() if its.size in {0, size})
        raise SetupError(
            f"preset {name} gives {preset.size}x{preset.size} pixels, the network takes {size}x{size}; use {fitting}"
        )
    return Preprocessing(
        height=size,
        width=size,
        channels=preset.channels,
        fit="crop" if preset.resize else "stretch",
        crop_fraction=size / preset.resize if preset.resize else 1.0,
    )
