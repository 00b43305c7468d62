"""ONNX classifiers as other people's tools write them: no manifest, any layout, names, output and age."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from service.manifest import Preprocessing
from tests.onnx_models import weights

SIDE, CLASSES = 8, 4
Floats = npt.NDArray[np.float32]


def layer(channels: int = 3, gain: float = 128.0) -> Floats:
    """Return the weights [8 * 8 * channels, 4] of a model that `write_foreign` writes; gain 1 suits pixels 0 to 255."""
    spec = Preprocessing(height=SIDE, width=SIDE, channels=3 if channels == 3 else 1)
    return np.asarray(weights(spec, CLASSES) * gain, np.float32)


def samples(count: int, *shape: int, seed: int = 7) -> Floats:
    """Return normal float32 samples [count, *shape], of [count, 3, 8, 8] where no shape is given."""
    return np.random.default_rng(seed).standard_normal((count, *(shape or (3, SIDE, SIDE))), np.float32)


def write_foreign(
    folder: Path,
    *,
    layout: str = "NCHW",
    datatype: int = TensorProto.FLOAT,
    batch: int | str = 1,
    side: int | str = SIDE,
    channels: int = 3,
    gain: float = 128.0,
    names: tuple[str, str] = ("data_0", "fc6_1"),
    last: Sequence[str] = (),
    ones: bool = False,
    begins: tuple[str, Any] | None = None,
    inside: int | None = None,
    listed: bool = False,
    opset: int = 13,
    ir: int = 8,
    producer: str = "",
    graph_name: str = "linear",
    external: str = "",
) -> Path:
    """Write `folder/model.onnx`, one linear layer, and return its path.

    Args:
        folder: the version's folder; it is made.
        layout: of the input.
        datatype: of the input.
        batch: of input and output; a text: free.
        side: height and width; a text: free.
        channels: of the input.
        gain: see `layer`.
        names: of input and output.
        last: operators after the layer, such as Softmax.
        ones: whether the output is [N, classes, 1, 1].
        begins: an operator on the input and the constant beside it.
        inside: the batch that a Reshape fixes inside the graph.
        listed: whether initialisers are listed among the inputs, as before IR 4.
        opset: of the operators.
        ir: version of the file format.
        producer: what says that it wrote the file.
        graph_name: of the graph.
        external: the location of the weights beside the file; empty: in it.
    """
    picture = [channels, side, side] if layout == "NCHW" else [side, side, channels]
    initialisers = {"layer": layer(channels, gain), "bias": np.zeros(CLASSES, np.float32)}
    nodes, value = [], names[0]
    if begins is not None:
        initialisers["begin"] = np.array(begins[1], np.float32)
        nodes.append(helper.make_node(begins[0], [value, "begin"], ["begun"]))
        value = "begun"
    if datatype != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", [value], ["floats"], to=TensorProto.FLOAT))
        value = "floats"
    shapes = {"flat_shape": np.array([inside or 0, -1], np.int64), "out_shape": np.array([0, CLASSES, 1, 1], np.int64)}
    nodes.append(helper.make_node("Reshape", [value, "flat_shape"], ["flat"]))
    nodes.append(helper.make_node("MatMul", ["flat", "layer"], ["products"]))
    steps = [("Add", ["bias"]), *((operator, []) for operator in last), *([("Reshape", ["out_shape"])] if ones else [])]
    value = "products"
    for number, (operator, others) in enumerate(steps):
        given = names[1] if number == len(steps) - 1 else f"step_{number}"
        nodes.append(helper.make_node(operator, [value, *others], [given]))
        value = given
    arrays = {
        **initialisers,
        "flat_shape": shapes["flat_shape"],
        **({"out_shape": shapes["out_shape"]} if ones else {}),
    }
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    inputs = [helper.make_tensor_value_info(names[0], datatype, [batch, *picture])]
    inputs += [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in tensors if listed]
    output = helper.make_tensor_value_info(names[1], TensorProto.FLOAT, [batch, CLASSES, *([1, 1] if ones else [])])
    graph = helper.make_graph(nodes, graph_name, inputs, [output], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
    model.producer_name = producer
    folder.mkdir(parents=True, exist_ok=True)
    if external:
        (folder / external).parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model, folder / "model.onnx", save_as_external_data=True, location=external, size_threshold=256)
    else:
        onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def relocate(model: Path, location: str, key: str = "location") -> None:
    """Change what every tensor of a file says of its external file."""
    proto = onnx.load(model, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == key:
                entry.value = location
    model.write_bytes(proto.SerializeToString())
