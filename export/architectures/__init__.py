"""The networks, one file a paper; `build` makes them by name."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from export.architectures import airbench, alexnet, all_cnn, convnet, googlenet, lenet, mlp, resnet, resnet_cifar, vgg
from service.errors import SetupError


@dataclass(frozen=True, slots=True)
class Architecture:
    """A network and the input that it was designed for.

    Attributes:
        build: makes it of (channels, classes): float [N, channels, size, size] in, logits [N, classes] out.
        size: height and width of its input, in pixels.
        training_only: its modules that only training uses; weights may lack or hold them, what is served does not.
        mean: of each channel, of pixels from 0 to 1, where published weights want another one than their preset's;
            likewise `std`. Training takes those of its data.
    """

    build: Callable[[int, int], nn.Module]
    size: int
    training_only: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


_RESNETS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": partial(resnet.ResNet, resnet.BasicBlock, (2, 2, 2, 2)),
    "resnet34": partial(resnet.ResNet, resnet.BasicBlock, (3, 4, 6, 3)),
    "resnet50": partial(resnet.ResNet, resnet.Bottleneck, (3, 4, 6, 3)),
    "resnet101": partial(resnet.ResNet, resnet.Bottleneck, (3, 4, 23, 3)),
    "resnet152": partial(resnet.ResNet, resnet.Bottleneck, (3, 8, 36, 3)),
}
_VGGS: dict[str, Callable[..., nn.Module]] = {
    f"vgg{depth}{suffix}": partial(vgg.VGG, depth, normalise=bool(suffix))
    for suffix in ("", "_bn")
    for depth in vgg.CONFIGURATIONS
}
_GOOGLENET = Architecture(
    googlenet.GoogLeNet, size=224, training_only=("aux1", "aux2"), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
)

ARCHITECTURES = {
    "lenet5": Architecture(lenet.LeNet5, size=28),
    "lenet5-paper": Architecture(lenet.LeNet5Paper, size=32),
    "mlp": Architecture(mlp.MLP, size=28),
    "all-cnn-c": Architecture(all_cnn.AllCNN, size=32),
    "airbench94": Architecture(airbench.Airbench, size=32),
    "alexnet": Architecture(alexnet.AlexNet, size=224),
    "alexnet-lrn": Architecture(alexnet.AlexNetLRN, size=224),
    "googlenet": _GOOGLENET,
    **{name: Architecture(build, size=224) for name, build in (_VGGS | _RESNETS).items()},
    **{
        f"{name}-small": Architecture(partial(build, small=True), size=32) for name, build in (_VGGS | _RESNETS).items()
    },
    "resnet20": Architecture(resnet_cifar.resnet20, size=32),
    "resnet32": Architecture(resnet_cifar.resnet32, size=32),
    "resnet44": Architecture(resnet_cifar.resnet44, size=32),
    "resnet56": Architecture(resnet_cifar.resnet56, size=32),
    "resnet110": Architecture(resnet_cifar.resnet110, size=32),
}


def find(name: str) -> Architecture:
    """Return the architecture of that name, or of that spec: `convnet:...`, see export.architectures.convnet.

    Raises:
        SetupError: there is none; names those there are. Or the spec cannot be read; points at the place.
    """
    if name.startswith(convnet.PREFIX):
        spec = convnet.parse(name)
        return Architecture(partial(convnet.ConvNet, spec), size=spec.size)
    if name not in ARCHITECTURES:
        raise SetupError(f"no architecture {name!r}; there are: {', '.join(ARCHITECTURES)}, and {convnet.EXAMPLE}")
    return ARCHITECTURES[name]
