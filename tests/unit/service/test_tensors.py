from typing import NamedTuple

import numpy as np
import pytest

from service.errors import InvalidInput, ModelRejected
from service.tensors import Dimension, Expected, Tensor, read_input, read_output, with_classes


class Port(NamedTuple):
    """An input or output as ONNX Runtime tells it."""

    name: str
    type: str
    shape: list[Dimension]


FLOAT, BYTES = "tensor(float)", "tensor(uint8)"
NCHW = Tensor("x", "FP32", (-1, 3, 8, 8), "NCHW")


def taken(shape: list[Dimension], kind: str = FLOAT, **expected: object) -> Tensor:
    """Return what a graph with an input of this shape takes."""
    return read_input([Port("x", kind, shape)], Expected(**expected)).tensor  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "shape", "layout", "picture"),
    [
        (FLOAT, [1, 3, 224, 200], "NCHW", (224, 200, 3)),
        (FLOAT, ["N", 224, 200, 3], "NHWC", (224, 200, 3)),
        (FLOAT, [1, 1, 28, 28], "NCHW", (28, 28, 1)),
        (BYTES, [None, 28, 28, 1], "NHWC", (28, 28, 1)),
        (BYTES, ["N", 3, 32, 32], "NCHW", (32, 32, 3)),
        (FLOAT, ["N", 3, 9, 1], "NCHW", (9, 1, 3)),
        (BYTES, ["N", 3, 9, 1], "NHWC", (3, 9, 1)),
        ("tensor(float16)", ["N", 3, 8, 8], "NCHW", (8, 8, 3)),
    ],
)
def test_layout(kind: str, shape: list[Dimension], layout: str, picture: tuple[int, int, int]) -> None:
    """Channels are where 1 or 3 stands; where both ends could be, last of bytes and first of floats."""
    tensor = taken(shape, kind)
    assert (tensor.layout, tensor.picture, tensor.shape[0]) == (layout, picture, -1)


def test_said_layout_wins() -> None:
    """A layout that was said wins over what the shape looks like."""
    assert taken([1, 3, 8, 3], layout="NHWC").picture == (3, 8, 3)


@pytest.mark.parametrize(
    ("shape", "expected", "picture", "assumed"),
    [
        (["N", 3, "H", "W"], {}, (224, 224, 3), 2),
        (["N", None, None, 3], {"height": 96, "width": 128}, (96, 128, 3), 0),
        ([None, None, None, None], {"layout": "NCHW", "channels": 1, "height": 28, "width": 28}, (28, 28, 1), 0),
        (["N", 3, 0, -1], {"height": 32}, (32, 224, 3), 1),
    ],
)
def test_free_size(
    shape: list[Dimension], expected: dict[str, object], picture: tuple[int, int, int], assumed: int
) -> None:
    """Where the graph leaves its size free that which was said is taken, else 224, which is told."""
    found = read_input([Port("x", FLOAT, shape)], Expected(**expected))  # type: ignore[arg-type]
    assert (found.tensor.picture, len(found.assumed)) == (picture, assumed)


@pytest.mark.parametrize(("size", "fixed"), [(1, 1), (16, 16), ("N", None), (None, None), (0, None), (-1, None)])
def test_fixed_batch(size: Dimension, fixed: int | None) -> None:
    """A batch that is a number is fixed; one that is a name or unknown is free."""
    assert read_input([Port("x", FLOAT, [size, 3, 8, 8])], Expected()).fixed == fixed


@pytest.mark.parametrize(
    ("ports", "text"),
    [
        ([], "0 inputs; a classifier has one"),
        ([Port("a", FLOAT, [1, 3, 8, 8]), Port("b", FLOAT, [1])], "2 inputs"),
        ([Port("x", "tensor(int64)", [1, 3, 8, 8])], "'x' is tensor(int64) [1, 3, 8, 8]; it must be tensor(uint8), "),
        ([Port("x", FLOAT, ["N", 64])], "'x' is tensor(float) [N, 64]; it must be"),
        ([Port("x", FLOAT, ["N", 8, 8, 8])], "[N, 8, 8, 8]; where its 1 or 3 channels are cannot be told: say"),
        ([Port("x", FLOAT, [None, None, None, None])], "[?, ?, ?, ?]; where its 1 or 3 channels"),
        ([Port("x", FLOAT, [1, 3, 5000, 8])], "at most 4,096 rows"),
        ([Port("x", FLOAT, [5000, 3, 8, 8])], "batch is fixed at 5,000"),
        ([Port("x", FLOAT, [4096, 3, 4096, 4096])], "batch is fixed at 4,096"),
    ],
)
def test_no_input(ports: list[Port], text: str) -> None:
    """An input that is no classifier's is refused, and what it is is told."""
    with pytest.raises(ModelRejected) as caught:
        read_input(ports, Expected())
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "classes"),
    [
        (["N", 10], 10),
        ([1, 1000, 1, 1], 1000),
        ([1, 1, 1, 1001], 1001),
        (["N", "C"], None),
        ([], None),
        ([1, 1000, None, None], None),
    ],
)
def test_classes(shape: list[Dimension], classes: int | None) -> None:
    """Scores are [N, classes] with more dimensions of 1, or not known before it runs."""
    assert read_output([Port("y", FLOAT, shape)]) == ("y", classes)


def test_other_outputs() -> None:
    """Feature maps and the number of the best class are not the scores."""
    others = [Port("map", FLOAT, ["N", 64, 7, 7]), Port("best", "tensor(int64)", ["N", 1])]
    assert read_output([*others, Port("y", FLOAT, ["N", 10])]) == ("y", 10)


@pytest.mark.parametrize(
    "ports",
    [
        [],
        [Port("y", FLOAT, ["N", 64, 7, 7])],
        [Port("y", "tensor(int64)", ["N", 10])],
        [Port("y", FLOAT, ["N", 1])],
        [Port("y", FLOAT, ["N", 10]), Port("z", FLOAT, ["N", 20])],
    ],
    ids=["none", "map", "integers", "one class", "two"],
)
def test_no_output(ports: list[Port]) -> None:
    """A graph without scores, or with several, is refused, and its outputs are told."""
    with pytest.raises(ModelRejected, match=f"of its {len(ports)} outputs") as caught:
        read_output(ports)
    assert all(repr(port.name) in str(caught.value) for port in ports)


def test_output_shown() -> None:
    """Every model shows the same output."""
    assert with_classes(10) == Tensor("probabilities", "FP32", (-1, 10))


@pytest.mark.parametrize(
    ("sample", "text"),
    [
        (np.zeros((3, 8, 8)), "is float64 [3, 8, 8]; x takes FP32 [3, 8, 8]"),
        (np.zeros((8, 8, 3), np.float32), "is float32 [8, 8, 3]"),
        (np.full((3, 8, 8), np.nan, np.float32), "not finite"),
        (np.full((3, 8, 8), np.inf, np.float32), "not finite"),
    ],
)
def test_wrong_sample(sample: np.ndarray, text: str) -> None:
    """A sample of another datatype or shape, or with values that are no numbers, is refused."""
    with pytest.raises(InvalidInput) as caught:
        NCHW.check(sample)
    assert text in str(caught.value)


@pytest.mark.parametrize("datatype", ["UINT8", "FP16", "FP32"])
def test_generated(datatype: str) -> None:
    """Generated samples are such that the tensor takes, the same for the same seed."""
    tensor = Tensor("x", datatype, (-1, 3, 8, 8), "NCHW")  # type: ignore[arg-type]
    batch = tensor.generated(2)
    for sample in batch:
        tensor.check(sample)
    assert (batch == tensor.generated(2)).all()
    assert (batch[0] != batch[1]).any()
