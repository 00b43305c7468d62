"""A serving graph becomes an explain graph: feature maps, first filters and class maps become outputs, without torch.

Everything is read from the operators, never from the names that an exporter gave, so that foreign files work too.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from export.plan import KEY, Plan, Stage
from service.tensors import read_output

_ABOUT_SHAPES = {"Shape", "Size"}
"""Their outputs depend on the picture's size, not on the picture."""
_CONVOLUTIONS = {"Conv", "ConvTranspose"}
_POOLS = {"MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool"}
_REARRANGE = {"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Gemm", "MatMul"}
"""Behind them the axes may mean something else than maps, rows and columns."""
_TRANSPARENT = {
    *("Softmax", "LogSoftmax", "Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Dropout"),
    *("QuantizeLinear", "DequantizeLinear"),
}
"""Between pooling and scores they change neither the order of the features nor how they are weighed."""

Shapes = dict[str, tuple[int, ...]]


def write(source: Path, target: Path) -> Plan:
    """Write the explain graph of the model file `source` to `target`, by rename; return what it gives."""
    model, plan = explain_graph(source)
    partial = target.with_name(f".{target.name}.partial")
    with partial.open("wb") as file:
        file.write(model)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(target)
    return plan


def explain_graph(source: Path) -> tuple[bytes, Plan]:
    """Return the explain graph of a model file, as the contents of an ONNX file, and what it gives."""
    model = onnx.load(source)
    plan = add_outputs(model)
    helper.set_model_props(model, {KEY: plan.to_json()})  # the manifest and its golden samples stay in model.onnx
    return model.SerializeToString(), plan


def add_outputs(model: ModelProto) -> Plan:
    """Add to a graph the outputs that explain it; return their names."""
    flow = _Flow.of(model)
    stages = []
    for number, (tensor, operators) in enumerate(_stages(flow), start=1):
        stages.append(Stage(_expose(model.graph, tensor, f"explain/stage{number}"), operators))
    first = next((node for node in flow.nodes if node.op_type == "Conv"), None)
    return Plan(
        probabilities=flow.score,
        stages=tuple(stages),
        filters=_expose(model.graph, first.input[1], "explain/filters") if first else None,
        class_maps=_class_maps(model.graph, flow),
    )


class _Port(NamedTuple):
    """An output of a graph, described as ONNX Runtime would."""

    name: str
    type: str
    shape: tuple[int | None, ...]

    @classmethod
    def of(cls, value: ValueInfoProto) -> "_Port":
        """Describe an output."""
        taken = value.type.tensor_type
        kind = TensorProto.DataType.Name(taken.elem_type).lower()
        return cls(value.name, f"tensor({kind})", tuple(size.dim_value or None for size in taken.shape.dim))


@dataclass(frozen=True, slots=True)
class _Flow:
    """The part of a graph that the picture flows through.

    Attributes:
        nodes: those that depend on the picture, in order.
        producer: which of them makes a tensor.
        shapes: what is known of the tensors' sizes; 0 for a size that is free.
        maps: tensors whose axes are [N, maps, rows, columns].
        trunk: tensors that everything passes through, in order: no path goes around them.
        constants: values that are known from the file.
        score: the output that holds the scores.
    """

    nodes: list[NodeProto]
    producer: dict[str, NodeProto]
    shapes: Shapes
    maps: set[str]
    trunk: list[str]
    constants: dict[str, TensorProto]
    score: str

    @classmethod
    def of(cls, model: ModelProto) -> "_Flow":
        """Follow the picture through a graph."""
        graph = model.graph
        constants = {tensor.name: tensor for tensor in graph.initializer}
        constants |= {
            node.output[0]: attribute.t
            for node in graph.node
            if node.op_type == "Constant"
            for attribute in node.attribute
            if attribute.name == "value"
        }
        picture = next(value.name for value in graph.input if value.name not in constants)
        moved, nodes = {picture}, []
        for node in graph.node:
            if node.op_type not in _ABOUT_SHAPES and moved.intersection(node.input):
                nodes.append(node)
                moved.update(filter(None, node.output))
        score, _ = read_output([_Port.of(value) for value in graph.output])
        return cls(
            nodes=nodes,
            producer={name: node for node in nodes for name in node.output},
            shapes=_shapes(model),
            maps=_maps(nodes),
            trunk=list(_trunk(picture, nodes, score)),
            constants=constants,
            score=score,
        )


def _shapes(model: ModelProto) -> Shapes:
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    found = {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        if value.type.tensor_type.HasField("shape"):
            found[value.name] = tuple(size.dim_value for size in value.type.tensor_type.shape.dim)
    return found


def _maps(nodes: list[NodeProto]) -> set[str]:
    """Return the tensors that are maps: made by a convolution or pooling, or of maps without being rearranged."""
    maps: set[str] = set()
    for node in nodes:
        made = node.op_type in _CONVOLUTIONS or (node.op_type in _POOLS and node.input[0] in maps)
        if made or (node.op_type not in _REARRANGE and maps.intersection(node.input)):
            maps.update(node.output)
    return maps


def _trunk(picture: str, nodes: list[NodeProto], score: str) -> Iterator[str]:
    """Yield the tensors at which nothing else of the picture is still needed, in order.

    In a residual network these are the blocks' outputs: within a block the shortcut goes around every tensor.
    """
    last = {name: place for place, node in enumerate(nodes) for name in node.input}
    last[score] = len(nodes)
    needed = {picture}
    for place, node in enumerate(nodes):
        needed.update(name for name in node.output if name in last)
        needed = {name for name in needed if last[name] > place}
        if len(needed) == 1:
            yield from needed.intersection(node.output)


def _stages(flow: _Flow) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the last tensor of the trunk at each resolution, and the operators between it and the one before."""
    sized = [
        name
        for name in flow.trunk
        if name in flow.maps and len(flow.shapes.get(name, ())) == 4 and min(flow.shapes[name][2:]) > 1
    ]
    order = {name: place for place, node in enumerate(flow.nodes) for name in node.output}
    begin = min((order[name] for name in flow.maps), default=0)
    for _, group in groupby(sized, key=lambda name: flow.shapes[name][2:]):
        tensor = list(group)[-1]
        counted = Counter(node.op_type for node in flow.nodes[begin : order[tensor] + 1])
        yield tensor, tuple(name if count == 1 else f"{count} {name}" for name, count in counted.items())
        begin = order[tensor] + 1


def _expose(graph: GraphProto, tensor: str, name: str) -> str:
    """Make a tensor an output of the graph, as float32; return the output's name."""
    graph.node.append(helper.make_node("Cast", [tensor], [name], to=TensorProto.FLOAT))
    graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return name


def _class_maps(graph: GraphProto, flow: _Flow) -> str | None:
    """Add the class activation maps; return the output's name, or None where the head does not allow them.

    Zhou et al., Learning Deep Features for Discriminative Localization (2016), section 2: the head is global average
    pooling and one linear layer, and the map of class c is the sum over k of w[c, k] * f[k](x, y). That is a 1x1
    convolution of the pooled features with the layer's weights, so it is added as one. Without a linear layer (Lin et
    al., Network in Network, 2014) the pooled features are the class maps already.
    """
    head = _head(flow)
    if head is None:
        return None
    features, weights, transposed = head
    shape = flow.shapes.get(features, ())
    if features not in flow.maps or len(shape) != 4 or max(shape[2:]) == 1:
        return None
    if weights is None:
        classes = flow.shapes.get(flow.score, (0, 0))[1:2]
        return _expose(graph, features, "explain/class_maps") if classes == shape[1:2] else None
    if transposed:  # [features, classes]
        graph.node.append(helper.make_node("Transpose", [weights], ["explain/turned"], perm=[1, 0]))
        weights = "explain/turned"
    # A 0 keeps the size that is there.
    graph.initializer.append(helper.make_tensor("explain/shape", TensorProto.INT64, [4], [0, 0, 1, 1]))
    graph.node.append(helper.make_node("Reshape", [weights, "explain/shape"], ["explain/kernel"]))
    graph.node.append(helper.make_node("Conv", [features, "explain/kernel"], ["explain/maps"], kernel_shape=[1, 1]))
    return _expose(graph, "explain/maps", "explain/class_maps")


def _head(flow: _Flow) -> tuple[str, str | None, bool] | None:
    """Walk back from the scores; return (pooled features, weights of the linear layer, whether [features, classes])."""
    tensor, weights, transposed = flow.score, None, False
    while (node := flow.producer.get(tensor)) is not None:
        tensor = node.input[0]
        if _pools_everything(node, flow):
            return tensor, weights, transposed
        if node.op_type in _TRANSPARENT:
            continue
        if weights is not None:
            return None
        if node.op_type == "Add":  # the bias of a MatMul
            [*moved] = [name for name in node.input if name in flow.producer]
            if len(moved) != 1:
                return None
            [tensor] = moved
        elif node.op_type == "Gemm" and not _attribute(node, "transA", 0) and _attribute(node, "alpha", 1.0) == 1:
            weights, transposed = node.input[1], not _attribute(node, "transB", 0)
        elif node.op_type == "MatMul" and node.input[1] not in flow.producer:
            weights, transposed = node.input[1], True
        else:
            return None
    return None


def _pools_everything(node: NodeProto, flow: _Flow) -> bool:
    """Return whether a node takes the mean of each map over all places."""
    if node.op_type == "GlobalAveragePool":
        return True
    shape = flow.shapes.get(node.input[0], ())
    if len(shape) != 4:
        return False
    if node.op_type == "ReduceMean":
        axes = _attribute(node, "axes", None)
        if axes is None and len(node.input) > 1 and node.input[1] in flow.constants:
            axes = numpy_helper.to_array(flow.constants[node.input[1]]).tolist()
        return {axis % 4 for axis in axes or ()} == {2, 3}
    return (
        node.op_type == "AveragePool"
        and tuple(_attribute(node, "kernel_shape", ())) == shape[2:]
        and not any(_attribute(node, "pads", ()))
    )


def _attribute(node: NodeProto, name: str, default: Any) -> Any:  # noqa: ANN401 - a number, a text or a list
    return next((helper.get_attribute_value(entry) for entry in node.attribute if entry.name == name), default)
