"""The one tensor that a classifier takes and the one that it gives, told from what a graph says of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from service.errors import InvalidInput, ModelRejected
from service.manifest import Layout, Scores

Datatype = Literal["UINT8", "FP16", "FP32"]
"""As the Open Inference Protocol calls them."""

DEFAULT_SIDE = 224
"""Height and width where a graph leaves them free and nobody says more: ImageNet's usual."""
MAX_BATCH = 4096
MAX_VALUES = 1 << 28
"""Most values of one run of a graph that fixes its batch: 1 GB of float32."""

_DATATYPES: dict[str, Datatype] = {"tensor(uint8)": "UINT8", "tensor(float16)": "FP16", "tensor(float)": "FP32"}
_DTYPES: dict[Datatype, type[np.generic]] = {"UINT8": np.uint8, "FP16": np.float16, "FP32": np.float32}
_SCORES = {"tensor(float)", "tensor(float16)", "tensor(double)"}
_CHANNELS = (1, 3)

Dimension = int | str | None
"""Of a shape as ONNX Runtime tells it: a number, or free, with or without a name."""


class Port(Protocol):
    """An input or output as ONNX Runtime describes it."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def type(self) -> str: ...  # noqa: D102
    @property
    def shape(self) -> Sequence[Dimension]: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor that a model takes or gives.

    Attributes:
        name: as the graph calls it.
        datatype: of its values.
        shape: its dimensions, the first -1: any number of samples, whatever batch the graph itself may fix.
        layout: where a picture has its channels; None for what is no picture.
    """

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    layout: Layout | None = None

    @property
    def dtype(self) -> type[np.generic]:
        """NumPy's name of the datatype."""
        return _DTYPES[self.datatype]

    @property
    def picture(self) -> tuple[int, int, int]:
        """Height, width and channels of one picture."""
        _, first, second, third = self.shape
        return (first, second, third) if self.layout == "NHWC" else (second, third, first)

    def check(self, sample: npt.NDArray[Any]) -> None:
        """Refuse a sample that is not of this tensor, its first dimension left out.

        Raises:
            InvalidInput: another datatype or shape, or values that are not finite.
        """
        if sample.dtype != self.dtype or sample.shape != self.shape[1:]:
            raise InvalidInput(
                "image",
                f"is {sample.dtype} {list(sample.shape)}; {self.name} takes {self.datatype} {[*self.shape[1:]]}",
            )
        if self.datatype != "UINT8" and not np.isfinite(sample).all():
            raise InvalidInput("image", "holds values that are not finite")

    def generated(self, count: int, seed: int = 0) -> npt.NDArray[Any]:
        """Return `count` generated samples [count, *shape[1:]]: any bytes, or normal values."""
        random = np.random.default_rng(seed)
        if self.datatype == "UINT8":
            return random.integers(0, 256, (count, *self.shape[1:]), dtype=np.uint8)
        return random.standard_normal((count, *self.shape[1:]), np.float32).astype(self.dtype, copy=False)


@dataclass(frozen=True, slots=True)
class Expected:
    """What is known of a graph before it is opened, for what its shapes leave open.

    Attributes:
        layout: of the input.
        height: of the input where the graph leaves it free; likewise `width` and `channels`.
        scores: what an output gives, by its name; None: unknown, look at what it gives.
        probe: whether to try if it takes several samples at once.
    """

    layout: Layout | None = None
    height: int | None = None
    width: int | None = None
    channels: int | None = None
    scores: Callable[[str], Scores | None] = lambda _: "probabilities"
    probe: bool = False


class Input(NamedTuple):
    """The input, the batch that the graph fixes (None: none), and what was assumed."""

    tensor: Tensor
    fixed: int | None
    assumed: tuple[str, ...]


def read_input(ports: Sequence[Port], expected: Expected) -> Input:
    """Return the input of a classifier: one batch of pictures, [N, height, width, channels] or [N, channels, ...].

    Raises:
        ModelRejected: it has none, or several, or another kind; says what it has.
    """
    if len(ports) != 1:
        raise ModelRejected(f"it has {len(ports)} inputs; a classifier has one: a batch of pictures")
    port = ports[0]
    what = f"its input {port.name!r} is {port.type} {_shown(port.shape)}"
    if port.type not in _DATATYPES or len(port.shape) != 4:
        raise ModelRejected(
            f"{what}; it must be tensor(uint8), tensor(float) or tensor(float16), [N, height, width, channels] or "
            "[N, channels, height, width]"
        )
    datatype = _DATATYPES[port.type]
    batch, *sides = (_number(size) for size in port.shape)
    layout = _layout(sides, datatype, expected, what)
    order = ("height", "width", "channels") if layout == "NHWC" else ("channels", "height", "width")
    assumed = []
    for place, name in enumerate(order):
        if sides[place] is None:
            sides[place] = getattr(expected, name) or (DEFAULT_SIDE if name != "channels" else 3)
            if getattr(expected, name) is None:
                assumed.append(f"{name} {sides[place]} since the graph leaves it free")
    shape = tuple(size for size in sides if size is not None)
    if max(shape) > 4096:
        raise ModelRejected(f"{what}; a picture has at most 4,096 rows and columns")
    if batch is not None and (batch > MAX_BATCH or batch * int(np.prod(shape)) > MAX_VALUES):
        raise ModelRejected(f"{what}; its batch is fixed at {batch:,}, the limit is {MAX_BATCH:,} and 1 GB")
    return Input(Tensor(port.name, datatype, (-1, *shape), layout), batch, tuple(assumed))


def read_output(ports: Sequence[Port]) -> tuple[str, int | None]:
    """Return the name of the output that holds the scores, and how many classes it has; None: the graph leaves it open.

    Outputs of other kinds, such as feature maps or a label, are not asked for.

    Raises:
        ModelRejected: there is none, or more than one.
    """
    found = [port for port in ports if _may_be_scores(port)]
    if len(found) != 1:
        listed = ", ".join(f"{port.name!r} {port.type} {_shown(port.shape)}" for port in ports) or "none"
        raise ModelRejected(
            f"of its {len(ports)} outputs {len(found)} could be scores, [N, classes] or [N, classes, 1, 1] of floats; "
            f"a classifier has one. Its outputs: {listed}"
        )
    sides = [_number(size) for size in found[0].shape[1:]]
    open_ended = not sides or None in sides
    return found[0].name, None if open_ended else int(np.prod([size for size in sides if size is not None]))


def with_classes(classes: int) -> Tensor:
    """Return the output as every model shows it, whatever its graph gives."""
    return replace(_OUTPUT, shape=(-1, classes))


_OUTPUT = Tensor("probabilities", "FP32", (-1, -1))


def _layout(sides: Sequence[int | None], datatype: Datatype, expected: Expected, what: str) -> Layout:
    """Return where the channels are: as was said, else where 1 or 3 stands."""
    if expected.layout is not None:
        return expected.layout
    first, last = sides[0] in _CHANNELS, sides[2] in _CHANNELS
    if first != last:
        return "NCHW" if first else "NHWC"
    if first and last:  # a strip of 1 or 3 pixels; bytes come as pictures are, floats as PyTorch has them
        return "NHWC" if datatype == "UINT8" else "NCHW"
    raise ModelRejected(
        f"{what}; where its 1 or 3 channels are cannot be told: say `preprocessing` with `layout`, `height`, `width` "
        "and `channels` in a manifest.json beside it"
    )


def _may_be_scores(port: Port) -> bool:
    """Return whether an output may be [N, classes], with more dimensions of 1 around the classes or not known yet."""
    sides = [_number(size) for size in port.shape[1:]]
    large = sum(size is not None and size != 1 for size in sides)
    return port.type in _SCORES and (not port.shape or large == 1 or (large == 0 and None in sides))


def _number(size: Dimension) -> int | None:
    return size if isinstance(size, int) and size > 0 else None


def _shown(shape: Sequence[Dimension]) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"
