"""What a model's manifest does not say is inferred here; each finding is a sentence that is shown with the model.

| what is not said | what is taken |
|---|---|
| labels | `class 0`, `class 1` ... |
| layout | where the input's shape has 1 or 3; both ends: NHWC of bytes, NCHW of floats |
| height, width | the shape's; 224 where they are free |
| batch | the shape's, in runs of exactly that many, filled up; 1 where a graph takes two together and answers wrongly |
| scores | probabilities after a Softmax; else, for generated samples, probabilities where no value is negative and each
  row sums to 1 within 0.001, logits otherwise; a Sigmoid is refused |
| bytes in | pixels 0 to 255, RGB |
| floats in, and the graph begins by subtracting, adding, dividing or multiplying by a constant | the range that the
  constant speaks of: pixels 0 to 255, or 0 to 1; RGB |
| floats in, 1 channel | pixels 0 to 255, as MNIST and FER+ of the ONNX model zoo take them |
| floats in, 3 channels, made from Caffe | BGR, 0 to 255 less ImageNet's mean |
| floats in, 3 channels of 32x32 | RGB, 0 to 1, CIFAR-10's mean and deviation |
| floats in, 3 channels | RGB, 0 to 1, ImageNet's mean and deviation |
| fit | 3 channels from 64x64 on: the middle, 0.875 of the shorter side (224 of 256); else the whole picture |
| architecture | the graph's name, unless it is one that every file of its producer has |
| precision | int8 where operators quantise, fp16 where the input is float16, else fp32 |
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import Field

from service.errors import ModelRejected
from service.graph import Graph
from service.manifest import Frozen, Layout, Manifest, Scores, validate
from service.tensors import Expected, Tensor

Normalisation = dict[str, Any]

IMAGENET: Normalisation = {"scale": 1 / 255, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
"""Mean and standard deviation of ImageNet's training pictures, RGB from 0 to 1, as torchvision and timm use them."""
CAFFE: Normalisation = {"scale": 1.0, "mean": (103.939, 116.779, 123.68), "std": (1.0, 1.0, 1.0), "order": "BGR"}
"""ImageNet's mean in BGR from 0 to 255, as Caffe's networks take it (Simonyan and Zisserman, 2014)."""
CIFAR10: Normalisation = {"scale": 1 / 255, "mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}
"""Mean and standard deviation of CIFAR-10's training pictures."""
RAW: Normalisation = {"scale": 1.0}
UNIT: Normalisation = {"scale": 1 / 255}
CENTRE = {"fit": "crop", "crop_fraction": 0.875}

SMALL = 64
"""Rows or columns under which nothing of a picture is cut off."""
MAX_CLASSES = 1_000_000
_GENERIC = {"", "graph", "main", "main_graph", "model", "onnx", "saccade", "tf2onnx", "torch_jit", "torch-jit-export"}
"""Names that a producer gives to every graph."""
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_.+-]{1,62}")
_MANY_LABELS = {"Sigmoid", "HardSigmoid"}
_QUANTISED = {"QLinearConv", "ConvInteger", "QuantizeLinear", "DynamicQuantizeLinear", "MatMulInteger"}
_SIDE = Field(None, ge=1, le=4096)


class _Input(Frozen):
    """What may be said of the input."""

    layout: Layout | None = None
    height: int | None = _SIDE
    width: int | None = _SIDE
    channels: int | None = _SIDE
    fit: str | None = None
    order: str | None = None
    scale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


class _Said(Frozen):
    """What may be said of the graph."""

    scores: Scores | None = None
    preprocessing: _Input = _Input()


class Completed(NamedTuple):
    """A whole manifest, and what of it was inferred."""

    manifest: Manifest
    inferred: tuple[str, ...]


def expected(fields: Mapping[str, object], graph: Graph) -> Expected:
    """Return what is known of a graph before a session opens it.

    Args:
        fields: what its manifest and the files beside it say.
        graph: what the file says.

    Raises:
        ModelRejected: a field cannot be what it says.
    """
    said = validate(_Said, fields)
    known = said.preprocessing

    def scores(output: str) -> Scores | None:
        if said.scores is not None:
            return said.scores
        last = graph.last_operator(output)
        if last in _MANY_LABELS:
            raise ModelRejected(
                f"its last operator is {last}, which gives each class a probability of its own; a classifier's sum "
                'to 1. If its classes exclude each other say "scores": "logits" in a manifest.json beside it'
            )
        return "probabilities" if last == "Softmax" else None

    return Expected(known.layout, known.height, known.width, known.channels, scores, graph.producer != "saccade")


def complete(fields: Mapping[str, object], tensor: Tensor, classes: int, graph: Graph) -> Completed:
    """Return the manifest of a file, with what is not said in `fields` inferred by the table above.

    Args:
        fields: what its manifest and the files beside it say.
        tensor: its input.
        classes: how many there are.
        graph: what the file says.

    Raises:
        ModelRejected: a field cannot be what it says, or does nothing.
    """
    if not 2 <= classes <= MAX_CLASSES:
        raise ModelRejected(f"it has {classes:,} classes; 2 to {MAX_CLASSES:,} can be served")
    notes = []
    given = {key: value for key, value in fields.items() if value is not None}
    if "labels" not in given:
        given["labels"] = tuple(f"class {index}" for index in range(classes))
        notes.append(f"labels class 0 to class {classes - 1}")
    spec, guesses = _preprocessing(validate(_Said, fields).preprocessing, tensor, graph)
    notes += guesses
    own = fields.get("preprocessing")
    given["preprocessing"] = spec | {k: v for k, v in (own.items() if isinstance(own, dict) else ()) if v is not None}
    given.setdefault("precision", _precision(tensor, graph))
    given.setdefault("architecture", _architecture(graph.name))
    return Completed(validate(Manifest, given), tuple(notes))


def _preprocessing(said: _Input, tensor: Tensor, graph: Graph) -> tuple[dict[str, Any], list[str]]:
    """Return fields for what is not said, and what is shown of those that are a guess."""
    height, width, channels = tensor.picture
    spec: dict[str, Any] = {"height": height, "width": width, "channels": channels}
    floats = tensor.datatype != "UINT8"
    guesses = []
    if floats or said.layout is not None or tensor.layout == "NCHW":
        spec["layout"] = tensor.layout
    if not floats and (said.scale, said.mean, said.std) != (None, None, None):
        raise ModelRejected(
            "the graph takes bytes, so that preprocessing.scale, mean and std do nothing; take them out"
        )
    if floats:
        numbers, sentence = _numbers(said, tensor, graph)
        spec |= numbers
        guesses += [sentence] if sentence else []
    elif None in (said.height, said.width, said.channels):
        guesses.append("RGB pixels 0 to 255" if channels == 3 else "pixels 0 to 255")
    if said.fit is None:
        crop = channels == 3 and min(height, width) >= SMALL
        spec |= CENTRE if crop else {}
        guesses.append("the middle of a picture" if crop else "the whole picture")
    return spec, guesses


def _numbers(said: _Input, tensor: Tensor, graph: Graph) -> tuple[Normalisation, str]:
    """Return scale, mean, deviation and order of colours for a float graph, and what was guessed of them."""
    turned = said.order is None and _takes_bgr(tensor, graph)
    order, why = ({"order": "BGR"}, "BGR since it was made from Caffe") if turned else ({}, "")
    if said.scale is not None:
        return order, why
    if said.mean is not None or said.std is not None:
        large = max(map(abs, (*(said.mean or ()), *(said.std or ()))), default=0) > 1
        numbers, what = (RAW, "0 to 255") if large else (UNIT, "0 to 1")
        return numbers | order, ", ".join(filter(None, (f"mean and std are of pixels {what}", why)))
    numbers, what = _normalisation(tensor, graph)
    if said.order not in {None, numbers.get("order", "RGB")}:
        numbers = numbers | {key: numbers[key][::-1] for key in ("mean", "std") if key in numbers}
    return numbers, what


def _normalisation(tensor: Tensor, graph: Graph) -> tuple[Normalisation, str]:
    height, width, channels = tensor.picture
    begins = _begins(graph, tensor.name)
    if begins is not None:
        return begins
    if channels == 1:
        return RAW, "pixels 0 to 255"
    if _takes_bgr(tensor, graph):
        return CAFFE, "BGR pixels 0 to 255 less ImageNet's mean since it was made from Caffe"
    if (height, width) == (32, 32):
        return CIFAR10, "RGB pixels 0 to 1 with CIFAR-10's mean and deviation"
    return IMAGENET, "RGB pixels 0 to 1 with ImageNet's mean and deviation"


def _takes_bgr(tensor: Tensor, graph: Graph) -> bool:
    """Return whether a network takes its colours as Caffe's do, as far as nothing is said of it."""
    return tensor.picture[2] == 3 and "caffe" in graph.producer.lower() and _begins(graph, tensor.name) is None


def _begins(graph: Graph, name: str) -> tuple[Normalisation, str] | None:
    """Return the range of pixels that the first operator's constant speaks of; None where it speaks of none."""
    operator, constant = graph.first_operator(name)
    if constant is None or operator not in {"Add", "Sub", "Div", "Mul"}:
        return None
    if not constant:
        return RAW, "pixels 0 to 255, assumed, since the constant that the graph begins with cannot be read"
    size = max(map(abs, constant))
    raw = size < 0.1 if operator == "Mul" else size > 1.5
    return (RAW, "pixels 0 to 255") if raw else (UNIT, "pixels 0 to 1")


def _precision(tensor: Tensor, graph: Graph) -> str:
    if any(node.operator in _QUANTISED for node in graph.nodes):
        return "int8"
    return "fp16" if tensor.datatype == "FP16" else "fp32"


def _architecture(name: str) -> str:
    return name if _PLAIN.fullmatch(name) and name.lower() not in _GENERIC else ""
