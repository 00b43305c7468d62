"""Plain convolutional networks by a line of text, in the pattern that Stanford's course CS231n teaches.

    INPUT -> [[CONV -> RELU]*N -> POOL?]*M -> [FC -> RELU]*K -> FC

Written as `convnet:[[conv32]*2,pool]*3,[fc256]*1`: three times two 3x3 convolutions of 32 maps and a pooling, then one
hidden layer of 256 units; the last FC, with a unit a class, is not written. The grammar:

    spec   = [ "input" number "," ] part { "," part }          pictures of number x number; 32 where it is left out
    part   = stage | hidden                                     no stage after a hidden layer
    stage  = "[" "[" "conv" number "]" [times] [ "," "pool" ] "]" [times]
    hidden = "[" "fc" number "]" [times]
    times  = "*" number                                         1 where it is left out

It differs from the pattern in this: stages of different widths may follow each other. Convolutions keep height and
width (padding 1), a pooling takes the largest of 2x2, spaces do not count, weights start as He et al. (2015) have it.
"""

import re
from dataclasses import dataclass

from torch import Tensor, nn

from service.errors import SetupError

PREFIX = "convnet:"
EXAMPLE = f"{PREFIX}[[conv32]*2,pool]*3,[fc256]*1"
DEFAULT_SIZE = 32
MAX_SIZE, MAX_UNITS, MAX_TIMES, MAX_LAYERS = 512, 8192, 64, 256
MAX_PARAMETERS = 500_000_000
"""2 GB, which is also where ONNX files end."""

_TOKEN = re.compile(r"\s*([a-z]+|[0-9]+|\S)?")


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: `conv` or `fc` with its maps or units, or `pool`; and the column of the spec where it stands."""

    kind: str
    units: int
    column: int


@dataclass(frozen=True, slots=True)
class Spec:
    """What a spec says.

    Attributes:
        size: height and width of the picture.
        layers: in order, every repetition written out, without the last one.
    """

    size: int
    layers: tuple[Layer, ...]


class ConvNet(nn.Module):
    """Convolutions, poolings and hidden layers: float [N, channels, size, size] to logits [N, classes]."""

    def __init__(self, spec: Spec, channels: int = 3, classes: int = 10) -> None:
        super().__init__()
        side, values = spec.size, channels
        features: list[nn.Module] = []
        classifier: list[nn.Module] = []
        for layer in spec.layers:
            if layer.kind == "conv":
                features += [nn.Conv2d(values, layer.units, 3, padding=1), nn.ReLU(inplace=True)]
                values = layer.units
            elif layer.kind == "pool":
                features.append(nn.MaxPool2d(2))
                side //= 2
            else:
                inputs = values if classifier else values * side * side
                classifier += [nn.Linear(inputs, layer.units), nn.ReLU(inplace=True)]
                values = layer.units
        inputs = values if classifier else values * side * side
        # The spec was checked without its last layer, whose classes it does not say.
        if inputs * classes > MAX_PARAMETERS:
            raise SetupError(
                f"the last layer joins {inputs:,} values with {classes:,} classes: more than {MAX_PARAMETERS:,} "
                "parameters; add `pool`, or a smaller `fc` before it"
            )
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(*classifier, nn.Linear(inputs, classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.get_parameter("bias"))

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [N, classes] of pictures [N, channels, size, size]."""
        logits: Tensor = self.classifier(self.features(image).flatten(1))
        return logits


def parse(text: str) -> Spec:
    """Return what a spec says, `convnet:` in front of it included.

    Raises:
        SetupError: it is not of the grammar, or too large; a caret stands under the column.
    """
    spec = _Parser(text).spec()
    side, maps, parameters = spec.size, 3, 0
    for number, layer in enumerate(spec.layers, start=1):
        if layer.kind == "pool":
            side //= 2
        else:
            parameters += (maps * (9 if layer.kind == "conv" else side * side) + 1) * layer.units
            maps, side = layer.units, side if layer.kind == "conv" else 1
        if not side:
            raise _error(text, layer.column, f"this pooling finds nothing left of a picture of {spec.size}x{spec.size}")
        if number > MAX_LAYERS:
            raise _error(text, layer.column, f"here the layers become more than {MAX_LAYERS}")
        if parameters > MAX_PARAMETERS:
            raise _error(text, layer.column, f"here the parameters become more than {MAX_PARAMETERS:,}")
    return spec


class _Parser:
    """Reads a spec from left to right, one token ahead."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._next, self._column, self._end = "", 0, len(PREFIX)
        self._hidden = False
        self._advance()

    def spec(self) -> Spec:
        """Return what the whole text says."""
        size = DEFAULT_SIZE
        if self._next == "input":
            self._advance()
            size = self._number("a size in pixels", 1, MAX_SIZE)
            self._take(",")
        layers = self._part()
        while self._next:
            self._take(",")
            layers += self._part()
        return Spec(size, tuple(layers))

    def _part(self) -> list[Layer]:
        """Return the layers of a stage or the hidden layers that come next."""
        self._take("[")
        if self._next == "[" and not self._hidden:
            layers = self._stage()
        else:
            layers = [self._layer("fc", "units")]
            self._hidden = True
        self._take("]")
        return layers * self._times()

    def _stage(self) -> list[Layer]:
        self._take("[")
        layer = self._layer("conv", "maps")
        self._take("]")
        layers = [layer] * self._times()
        if self._next == ",":
            self._advance()
            layers.append(Layer("pool", 0, self._column))
            self._take("pool")
        return layers

    def _layer(self, kind: str, units: str) -> Layer:
        column = self._column
        self._take(kind)
        return Layer(kind, self._number(f"how many {units}", 1, MAX_UNITS), column)

    def _times(self) -> int:
        if self._next != "*":
            return 1
        self._advance()
        return self._number("how many times", 0, MAX_TIMES)

    def _number(self, what: str, least: int, most: int) -> int:
        if not self._next.isdecimal() or not least <= int(self._next[:9]) <= most or len(self._next) > 9:
            raise _error(self._text, self._column, f"expected {what}, from {least} to {most:,}")
        number = int(self._next)
        self._advance()
        return number

    def _take(self, token: str) -> None:
        if self._next != token:
            raise _error(self._text, self._column, f"expected `{token}`")
        self._advance()

    def _advance(self) -> None:
        match = _TOKEN.match(self._text, self._end)
        assert match is not None  # noqa: S101 - the pattern matches nothing too
        self._next, self._end = match[1] or "", match.end()
        self._column = match.end() - len(self._next)


def _error(text: str, column: int, reason: str) -> SetupError:
    """Return the error that points at a column, counted from 0."""
    shown = "".join(character if character.isprintable() else "?" for character in text)
    return SetupError(f"column {column + 1}: {reason}\n  {shown}\n  {' ' * column}^\nwrite it like {EXAMPLE}")
