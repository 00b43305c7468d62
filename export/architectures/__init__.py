"""The networks, one file a paper; `build` makes them by name."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from export.architectures import lenet, resnet_cifar
from service.errors import SetupError


@dataclass(frozen=True, slots=True)
class Architecture:
    """A network and the input that it was designed for.

    Attributes:
        build: makes it of (channels, classes): float [N, channels, size, size] in, logits [N, classes] out.
        size: height and width of its input, in pixels.
    """

    build: Callable[[int, int], nn.Module]
    size: int


ARCHITECTURES = {
    "lenet5": Architecture(lenet.LeNet5, size=28),
    "lenet5-paper": Architecture(lenet.LeNet5Paper, size=32),
    "resnet20": Architecture(resnet_cifar.resnet20, size=32),
    "resnet32": Architecture(resnet_cifar.resnet32, size=32),
    "resnet44": Architecture(resnet_cifar.resnet44, size=32),
    "resnet56": Architecture(resnet_cifar.resnet56, size=32),
    "resnet110": Architecture(resnet_cifar.resnet110, size=32),
}


def find(name: str) -> Architecture:
    """Return the architecture of that name.

    Raises:
        SetupError: there is none; names those there are.
    """
    if name not in ARCHITECTURES:
        raise SetupError(f"no architecture {name!r}; there are: {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]
