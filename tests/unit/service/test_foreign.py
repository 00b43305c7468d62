from typing import Any

import pytest

from service.errors import ModelRejected
from service.foreign import CAFFE, CIFAR10, IMAGENET, RAW, UNIT, complete, expected
from service.graph import Graph, Node
from service.manifest import Layout, Manifest
from service.tensors import Datatype, Tensor


def tensor(side: int = 224, channels: int = 3, datatype: Datatype = "FP32", layout: Layout = "NCHW") -> Tensor:
    """Return an input of this size."""
    picture = (channels, side, side) if layout == "NCHW" else (side, side, channels)
    return Tensor("x", datatype, (-1, *picture), layout)


def begins(operator: str, *constant: float) -> Graph:
    """Return a graph whose input goes into an operator with a constant beside it."""
    return Graph(nodes=[Node(operator, ("x", "c"), ("y",))], constants={"c": constant})


def numbers(manifest: Manifest) -> dict[str, Any]:
    """Return what a manifest says of the arithmetic, where it says something."""
    spec = manifest.preprocessing.model_dump(include={"scale", "mean", "std", "order"}, exclude_defaults=True)
    return {key: value for key, value in spec.items() if value is not None}


@pytest.mark.parametrize(
    ("taken", "graph", "inferred"),
    [
        (tensor(), Graph(), IMAGENET),
        (tensor(32), Graph(), CIFAR10),
        (tensor(28, 1), Graph(), RAW),
        (tensor(), Graph(producer="onnx-caffe2"), CAFFE),
        (tensor(), Graph(producer="Caffe2ONNX"), CAFFE),
        (tensor(), begins("Sub", 103.9, 116.8, 123.7), RAW),
        (tensor(), begins("Sub", 0.485, 0.456, 0.406), UNIT),
        (tensor(), begins("Div", 255), RAW),
        (tensor(), begins("Mul", 0.0039), RAW),
        (tensor(), begins("Mul", 2), UNIT),
        (tensor(28, 1), begins("Add", -0.5), UNIT),
        (tensor(), begins("Sub"), RAW),
        (tensor(), begins("Conv", 127.5), IMAGENET),
        (tensor(), begins("BatchNormalization", 1, 1, 1), IMAGENET),
        (tensor(datatype="FP16"), Graph(), IMAGENET),
        (tensor(datatype="UINT8"), begins("Sub", 127), {}),
    ],
)
def test_arithmetic(taken: Tensor, graph: Graph, inferred: dict[str, Any]) -> None:
    """The arithmetic that nobody says is that of the table."""
    assert numbers(complete({}, taken, 10, graph).manifest) == inferred


@pytest.mark.parametrize(
    ("side", "channels", "fit", "fraction"), [(224, 3, "crop", 0.875), (32, 3, "stretch", 1.0), (224, 1, "stretch", 1)]
)
def test_fit(side: int, channels: int, fit: str, fraction: float) -> None:
    """Of large colour pictures the middle is taken, of others the whole."""
    spec = complete({}, tensor(side, channels), 10, Graph()).manifest.preprocessing
    assert (spec.fit, spec.crop_fraction) == (fit, fraction)


def test_labels() -> None:
    """Classes without labels are numbered."""
    manifest, inferred = complete({}, tensor(), 3, Graph())
    assert manifest.labels == ("class 0", "class 1", "class 2")
    assert "labels class 0 to class 2" in inferred


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("squeezenet_old", "squeezenet_old"),
        ("main_graph", ""),
        ("", ""),
        ("a b", ""),
        ("7f3a", ""),
        ("CNTKGraph", "CNTKGraph"),
    ],
)
def test_architecture(name: str, expected: str) -> None:
    """The graph's name stands for the architecture, where it is one."""
    assert complete({}, tensor(), 3, Graph(name=name)).manifest.architecture == expected


@pytest.mark.parametrize(
    ("operator", "datatype", "precision"),
    [("Conv", "FP32", "fp32"), ("Conv", "FP16", "fp16"), ("QuantizeLinear", "FP32", "int8")],
)
def test_precision(operator: str, datatype: Datatype, precision: str) -> None:
    """Operators and input tell the precision."""
    graph = Graph(nodes=[Node(operator, ("x",), ("y",))])
    assert complete({}, tensor(datatype=datatype), 3, graph).manifest.precision == precision


SAID = {
    "labels": ["a", "b"],
    "architecture": "net",
    "precision": "fp16",
    "preprocessing": {
        "height": 224,
        "width": 224,
        "channels": 3,
        "fit": "stretch",
        "scale": 1.0,
        "mean": [1.0, 2.0, 3.0],
        "std": [4.0, 5.0, 6.0],
        "order": "BGR",
    },
}


def test_said_wins() -> None:
    """What is said is taken, and nothing is inferred."""
    manifest, inferred = complete(SAID, tensor(), 2, Graph(name="other", producer="caffe"))
    assert inferred == ()
    assert manifest == Manifest.model_validate(SAID | {"preprocessing": {**SAID["preprocessing"], "layout": "NCHW"}})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"mean": [104, 117, 124]}, {"scale": 1.0, "mean": (104, 117, 124)}),
        ({"mean": [0.5, 0.5, 0.5], "std": [0.5] * 3}, {"scale": 1 / 255, "mean": (0.5,) * 3, "std": (0.5,) * 3}),
        ({"std": [58, 57, 57]}, {"scale": 1.0, "std": (58, 57, 57)}),
        ({"mean": [0, 0, 0], "std": [255] * 3}, {"scale": 1.0, "mean": (0,) * 3, "std": (255,) * 3}),
        ({"scale": 2.0}, {"scale": 2.0}),
        ({"order": "BGR"}, {**IMAGENET, "mean": (0.406, 0.456, 0.485), "std": (0.225, 0.224, 0.229), "order": "BGR"}),
        ({"order": "RGB"}, IMAGENET),
    ],
)
def test_said_in_part(said: dict[str, Any], expected: dict[str, Any]) -> None:
    """Of the arithmetic what is left out fits what is said: its range of pixels, its order of colours."""
    assert numbers(complete({"preprocessing": said}, tensor(), 10, Graph()).manifest) == expected


@pytest.mark.parametrize("said", [{"mean": [104, 117, 123]}, {"std": [58, 57, 57]}, {"scale": 2.0}])
def test_caffe_keeps_its_colours(said: dict[str, Any]) -> None:
    """Whatever else is said, a network made from Caffe takes BGR while nobody says its order, and that is shown."""
    manifest, inferred = complete({"preprocessing": said}, tensor(), 10, Graph(producer="caffe"))
    assert manifest.preprocessing.order == "BGR"
    assert any("BGR since it was made from Caffe" in text for text in inferred)


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        ({"scale": 1 / 255, "mean": [0.4] * 3, "std": [0.2] * 3}, tensor()),
        ({"layout": "NHWC", "height": 224, "width": 224, "channels": 3}, tensor(datatype="UINT8", layout="NHWC")),
    ],
)
def test_fit_of_what_is_said_in_part(said: dict[str, Any], taken: Tensor) -> None:
    """The middle of a picture is taken while nobody says the fit, also where all else is said; and that is shown."""
    manifest, inferred = complete({"preprocessing": said}, taken, 10, Graph())
    assert (manifest.preprocessing.fit, manifest.preprocessing.crop_fraction) == ("crop", 0.875)
    assert "the middle of a picture" in inferred


def test_a_constant_that_cannot_be_read() -> None:
    """Where the constant that a graph begins with is not known, the range is said to be assumed."""
    _, inferred = complete({}, tensor(), 10, begins("Sub"))
    assert any("assumed" in text for text in inferred)


def test_order_of_caffe() -> None:
    """Said RGB of a network made from Caffe, its mean is turned round too."""
    manifest = complete({"preprocessing": {"order": "RGB"}}, tensor(), 10, Graph(producer="caffe")).manifest
    assert manifest.preprocessing.mean == (123.68, 116.779, 103.939)
    assert manifest.preprocessing.order == "RGB"


@pytest.mark.parametrize("said", [{"scale": 1.0}, {"mean": [0, 0, 0]}, {"std": [1, 1, 1]}])
def test_bytes_take_no_arithmetic(said: dict[str, Any]) -> None:
    """Arithmetic said of a graph that takes bytes is refused: it would do nothing."""
    with pytest.raises(ModelRejected, match="takes bytes"):
        complete({"preprocessing": said}, tensor(datatype="UINT8"), 10, Graph())


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ({"labels": ["a"]}, r"manifest's labels"),
        ({"preprocessing": []}, r"manifest's preprocessing cannot"),
        ({"preprocessing": {"height": 0}}, r"preprocessing\.height"),
        ({"preprocessing": {"layout": "CHWN"}}, r"preprocessing\.layout"),
        ({"preprocessing": {"mean": []}}, r"preprocessing.*mean has 0 values, the input 3 channels"),
        ({"preprocessing": {"mean": [1.0]}}, r"preprocessing.*mean has 1 values, the input 3 channels"),
        ({"preprocessing": {"scale": 1.0, "std": [0.0, 1, 1]}}, r"preprocessing\.std\.0"),
        ({"preprocessing": {"order": "GRB"}}, r"preprocessing\.order"),
        ({"scores": "odds"}, r"manifest's scores"),
    ],
)
def test_said_wrongly(said: dict[str, Any], text: str) -> None:
    """What cannot be is refused by the name of its field."""
    with pytest.raises(ModelRejected, match=text):
        complete(said, tensor(), 3, Graph())


@pytest.mark.parametrize("classes", [0, 1, 1_000_001])
def test_no_number_of_classes(classes: int) -> None:
    """A classifier has at least two classes, and not millions."""
    with pytest.raises(ModelRejected, match="classes; 2 to"):
        complete({}, tensor(), classes, Graph())


@pytest.mark.parametrize(
    ("last", "said", "scores"),
    [
        ("Softmax", None, "probabilities"),
        ("Gemm", None, None),
        ("LogSoftmax", None, None),
        ("Div", None, None),
        ("Softmax", "logits", "logits"),
        ("Gemm", "probabilities", "probabilities"),
        ("Sigmoid", "logits", "logits"),
    ],
)
def test_scores(last: str, said: str | None, scores: str | None) -> None:
    """What is said of the scores is taken, else a Softmax gives probabilities, and anything else is to be tried."""
    graph = Graph(nodes=[Node(last, ("x",), ("y",))])
    assert expected({"scores": said} if said else {}, graph).scores("y") == scores


def test_many_labels() -> None:
    """A network that gives each class a probability of its own is refused, with the way out."""
    known = expected({}, Graph(nodes=[Node("Sigmoid", ("x",), ("y",))]))
    with pytest.raises(ModelRejected, match=r'Sigmoid.*"scores": "logits"'):
        known.scores("y")


def test_size_said() -> None:
    """Size and layout that are said are known before the file is opened."""
    known = expected({"preprocessing": {"height": 96, "width": 64, "channels": 1, "layout": "NHWC"}}, Graph())
    assert (known.height, known.width, known.channels, known.layout) == (96, 64, 1, "NHWC")
