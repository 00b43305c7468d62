"""Small ONNX classifiers for tests, written without torch: one linear layer and a softmax, with an honest manifest."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from service import image
from service.manifest import KEY, GoldenSample, Manifest, Preprocessing, golden_sample

LABELS = ("cat", "dog", "eel", "fox")
SPEC = Preprocessing(height=8, width=8, channels=1)


def pictures(count: int, spec: Preprocessing = SPEC, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Return random pictures, uint8 [count, height, width, channels]."""
    return np.random.default_rng(seed).integers(0, 256, (count, spec.height, spec.width, spec.channels), dtype=np.uint8)


def weights(spec: Preprocessing = SPEC, classes: int = len(LABELS), seed: int = 1) -> npt.NDArray[np.float32]:
    """Return the weights of the linear layer, float32 [height * width * channels, classes]."""
    size = spec.height * spec.width * spec.channels
    layer = np.random.default_rng(seed).standard_normal((size, classes)) / (128 * size**0.5)
    return np.asarray(layer, np.float32)


def probabilities(batch: npt.NDArray[Any], layer: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return what the model must answer for a batch of pictures or samples: the same arithmetic in numpy."""
    scores = batch.reshape(len(batch), -1).astype(np.float32) @ layer
    exponents = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True), np.float32)


def write_model(
    folder: Path,
    *,
    labels: Sequence[str] = LABELS,
    spec: Preprocessing = SPEC,
    samples: int = 4,
    wrong_by: float = 0.0,
    bias: float = 0.0,
    with_manifest: bool = True,
    softmax: bool = True,
) -> Path:
    """Write `folder/model.onnx` and return its path.

    Args:
        folder: the version's folder; it is made.
        labels: the classes.
        spec: the input.
        samples: how many golden samples the manifest holds.
        wrong_by: what is added to each golden sample's first probability: beyond the tolerance the self-test must fail.
        bias: added to every score; NaN makes every output NaN.
        with_manifest: whether there is one.
        softmax: without it the outputs are no probabilities.
    """
    layer = weights(spec, len(labels))
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["floats"], ["flat"]),
        helper.make_node("MatMul", ["flat", "layer"], ["products"]),
        helper.make_node("Add", ["products", "bias"], ["scores"]),
        helper.make_node("Softmax" if softmax else "Identity", ["scores"], ["probabilities"]),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", spec.height, spec.width, spec.channels])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", len(labels)])],
        [numpy_helper.from_array(layer, "layer"), numpy_helper.from_array(np.array([bias], np.float32), "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    if with_manifest:
        golden = _golden(pictures(samples, spec), layer, wrong_by) if samples else ()
        manifest = Manifest(
            architecture="linear",
            labels=tuple(labels),
            preprocessing=spec,
            data="random",
            accuracy=0.5,
            golden_samples=golden,
        )
        helper.set_model_props(model, {KEY: manifest.to_json()})
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def _golden(batch: npt.NDArray[np.uint8], layer: npt.NDArray[np.float32], wrong_by: float) -> tuple[GoldenSample, ...]:
    expected = probabilities(batch, layer)
    expected[:, 0] = np.clip(expected[:, 0] + wrong_by, 0, 1)
    return tuple(
        golden_sample(image.encode_png(picture), int(row.argmax()), row.tolist())
        for picture, row in zip(batch, expected, strict=True)
    )
