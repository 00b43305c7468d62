import pytest
import torch
from torch import nn

from export.architectures import convnet, find
from service.errors import SetupError


def layers(spec: str, channels: int = 3, classes: int = 10) -> list[str]:
    """Return the layers that a spec makes, in short."""
    network = find(spec).build(channels, classes)
    shown = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            shown.append(f"conv{module.out_channels}")
        elif isinstance(module, nn.Linear):
            shown.append(f"fc{module.out_features}")
        elif isinstance(module, nn.ReLU | nn.MaxPool2d):
            shown.append("relu" if isinstance(module, nn.ReLU) else "pool")
    return shown


def test_example() -> None:
    """The pattern is INPUT -> [[CONV -> RELU]*N -> POOL?]*M -> [FC -> RELU]*K -> FC."""
    stage = ["conv32", "relu", "conv32", "relu", "pool"]
    assert layers("convnet:[[conv32]*2,pool]*3,[fc256]*1") == [*stage * 3, "fc256", "relu", "fc10"]


@pytest.mark.parametrize(
    ("spec", "made"),
    [
        ("convnet:[[conv8]]", ["conv8", "relu", "fc10"]),
        ("convnet:[fc9]*2", ["fc9", "relu", "fc9", "relu", "fc10"]),
        ("convnet:[[conv8]*0,pool]*1,[fc9]*0", ["pool", "fc10"]),
        ("convnet:[[conv4]],[[conv8],pool]", ["conv4", "relu", "conv8", "relu", "pool", "fc10"]),
        ("convnet: [ [conv 8] * 1 , pool ] ", ["conv8", "relu", "pool", "fc10"]),
    ],
)
def test_forms(spec: str, made: list[str]) -> None:
    """Counts, poolings, hidden layers and spaces may be left out; stages may differ."""
    assert layers(spec) == made


@pytest.mark.parametrize(("spec", "size"), [("convnet:[fc9]", 32), ("convnet:input28,[[conv8],pool]*4", 28)])
def test_size(spec: str, size: int) -> None:
    """Pictures are 32x32 unless the spec begins with another size, and the network takes that size."""
    architecture = find(spec)
    assert architecture.size == size
    assert architecture.build(1, 5)(torch.zeros(2, 1, size, size)).shape == (2, 5)


@pytest.mark.parametrize(
    ("spec", "caret", "reason"),
    [
        ("convnet:", "        ^", "expected `[`"),
        ("convnet:[[conv32]*2,pol]*3", "                    ^", "expected `pool`"),
        ("convnet:[[conv32]*2 pool]", "                    ^", "expected `]`"),
        ("convnet:[[dense3]]", "          ^", "expected `conv`"),
        ("convnet:[[conv]]", "              ^", "how many maps, from 1 to 8,192"),
        ("convnet:[[conv0]]", "              ^", "from 1 to 8,192"),
        ("convnet:[[conv9000]]", "              ^", "from 1 to 8,192"),
        ("convnet:[fc8]*65", "              ^", "how many times, from 0 to 64"),
        ("convnet:[fc8]*", "              ^", "how many times"),
        ("convnet:[fc8],", "              ^", "expected `[`"),
        ("convnet:[fc8][fc9]", "             ^", "expected `,`"),
        ("convnet:[fc8],[[conv8]]", "               ^", "expected `fc`"),
        ("convnet:input600,[fc8]", "             ^", "a size in pixels, from 1 to 512"),
        ("convnet:[[conv\u00b2]]", "              ^", "how many maps"),
        ("convnet:[fc" + "9" * 5000 + "]", "           ^", "how many units"),
        ("convnet:[fc8]\n!", "              ^", "expected `,`"),
    ],
)
def test_caret(spec: str, caret: str, reason: str) -> None:
    """An error says what was expected and points a caret at the column where the spec goes wrong."""
    with pytest.raises(SetupError) as caught:
        find(spec)
    first, shown, pointer, example = str(caught.value).split("\n")
    assert reason in first
    assert first.startswith(f"column {len(caret)}: ")
    assert shown == f"  {spec}".replace("\n", "?")
    assert pointer == f"  {caret}"
    assert convnet.EXAMPLE in example


@pytest.mark.parametrize(
    ("spec", "column", "reason"),
    [
        ("convnet:[[conv8],pool]*6", 18, "finds nothing left of a picture of 32x32"),
        ("convnet:[[conv1]*64]*64", 11, "more than 256"),
        ("convnet:[fc8192],[fc8192]*9", 19, "more than 500,000,000"),
    ],
)
def test_too_much(spec: str, column: int, reason: str) -> None:
    """Too many poolings, layers or parameters are refused before anything is made, at the layer that is too much."""
    with pytest.raises(SetupError, match=f"column {column}: .*{reason}"):
        find(spec)


def test_too_much_of_a_head() -> None:
    """A last layer of more parameters than a file may hold is refused with both numbers, before it is made."""
    architecture = find("convnet:input512,[[conv64]*1]*1")
    with pytest.raises(SetupError, match=r"joins 16,777,216 values with 100 classes: more than 500,000,000"):
        architecture.build(3, 100)
