"""Static int8 quantisation by onnxruntime.quantization: calibrated ranges in, a graph with QDQ pairs out.

The library is ONNX Runtime's own: it comes with the runtime that is needed anyway, is kept with the kernels that its
QDQ pairs turn into, and OpenVINO's and TensorRT's providers read the same pairs. NNCF would bring OpenVINO and more.

Activations are U8 and weights S8 for each channel, as ONNX Runtime's CPU kernels want them. Weights use 7 of their 8
bits: AVX2 adds two products of U8 and S8 in 16 bits, which saturate beyond 255 * 64 * 2, so that with 8 bits the same
file would answer differently on CPUs with and without VNNI.
"""

import contextlib
import io
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from service.errors import SetupError

Calibration = Literal["minmax", "entropy", "percentile"]
CALIBRATIONS: tuple[Calibration, ...] = ("minmax", "entropy", "percentile")
PERCENTILE = 99.99
BINS = 256
"""Of a tensor's histogram, to begin with: what its entropy takes grows with the square of it."""
WEIGHTED = ("Conv", "Gemm", "MatMul")
"""Operators whose arithmetic is worth reducing; each is a layer that may stay in float."""
_BETWEEN = ("Relu", "Clip", "Add", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool", "Reshape", "Flatten")
"""Operators that take and give bytes where they stand between such layers."""
_OLDEST_OPSET = 13
"""The first whose QuantizeLinear has a scale for each channel."""

Samples = npt.NDArray[Any]


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a float graph made ready: batch norms folded, every node named, initialisers no inputs.

    Raises:
        SetupError: the graph is already quantised, has no layer to quantise, or is of an opset that cannot be raised.
    """
    if any(node.op_type in {"QuantizeLinear", "QLinearConv", "DynamicQuantizeLinear"} for node in model.graph.node):
        raise SetupError("the file is quantised already; --precision starts from one in fp32")
    opset = next(each.version for each in model.opset_import if each.domain in {"", "ai.onnx"})
    if opset < _OLDEST_OPSET:
        try:
            model = onnx.version_converter.convert_version(model, _OLDEST_OPSET)
        except Exception as error:  # noqa: BLE001 - the converter raises whatever its C++ raises
            raise SetupError(f"its opset is {opset} and cannot be raised to {_OLDEST_OPSET}: {error}") from None
    held = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in held]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    fold_norms(model)
    if not layers(model):
        raise SetupError(f"the graph has no {', '.join(WEIGHTED)} to quantise")
    return model


def layers(model: onnx.ModelProto) -> list[str]:
    """Return the names of the layers that can be reduced, in the graph's order."""
    return [node.name for node in model.graph.node if node.op_type in WEIGHTED]


def fold_norms(model: onnx.ModelProto) -> None:
    """Fold each BatchNormalization behind a Conv into its weights, in place."""
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    uses = [name for node in graph.node for name in node.input]
    given = {value.name for value in graph.output}
    for norm in [node for node in graph.node if node.op_type == "BatchNormalization"]:
        conv = makers.get(norm.input[0])
        if conv is None or conv.op_type != "Conv" or conv.output[0] in given:
            continue
        alone = uses.count(conv.output[0]) == 1 and uses.count(conv.input[1]) == 1
        known = [*norm.input[1:], *filter(None, conv.input[1:])]  # a bias may be left out by an empty name
        if not alone or any(name not in tensors for name in known):
            continue
        epsilon = next((each.f for each in norm.attribute if each.name == "epsilon"), 1e-5)
        scale, bias, mean, variance = (numpy_helper.to_array(tensors[name]) for name in norm.input[1:5])
        factor = scale / np.sqrt(variance + epsilon)
        weights = numpy_helper.to_array(tensors[conv.input[1]])
        offset = numpy_helper.to_array(tensors[conv.input[2]]) if any(conv.input[2:]) else np.zeros_like(mean)
        folded = weights * factor.reshape(-1, *[1] * (weights.ndim - 1))
        tensors[conv.input[1]].CopyFrom(numpy_helper.from_array(folded.astype(np.float32), conv.input[1]))
        name = f"{conv.name}_folded_bias"
        graph.initializer.append(numpy_helper.from_array(((offset - mean) * factor + bias).astype(np.float32), name))
        conv.input[2:] = [name]
        conv.output[0] = norm.output[0]
        makers[norm.output[0]] = conv
        graph.node.remove(norm)


def ends(model: onnx.ModelProto) -> set[str]:
    """Return the names of the nodes before the first layers and after the last ones, which stay in float.

    Before them lies the preparation of the pixels, after them the softmax.
    """
    behind, before = _reached(model.graph.node), _reached(reversed(model.graph.node), backwards=True)
    return {
        node.name
        for node in model.graph.node
        if node.op_type not in WEIGHTED and not (node.name in behind and node.name in before)
    }


def _reached(nodes: Any, *, backwards: bool = False) -> set[str]:  # noqa: ANN401 - an iterator of NodeProto
    """Return the names of the nodes that a layer's answers reach, or backwards that reach a layer."""
    touched: set[str] = set()
    names = set()
    for node in nodes:
        sources, targets = (node.output, node.input) if backwards else (node.input, node.output)
        if node.op_type in WEIGHTED or touched.intersection(sources):
            names.add(node.name)
            touched.update(targets)
    return names


class Ranges:
    """The ranges of a graph's activations, by method, measured once and kept.

    Args:
        model: made ready, see `prepare`.
        batches: samples as the graph takes them, each time anew.
        told: after each batch, how many samples it had.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        batches: Callable[[], Iterator[Samples]],
        told: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._model = model
        self._batches = batches
        self._told = told
        self._known: dict[Calibration, Any] = {}

    def by(self, method: Calibration) -> Any:  # noqa: ANN401 - the library's TensorsData
        """Return the library's ranges by a method."""
        if method not in self._known:
            self._known[method] = self._measure(method)
        return self._known[method]

    def _measure(self, method: Calibration) -> Any:  # noqa: ANN401 - likewise
        from onnxruntime.quantization import calibrate

        methods = calibrate.CalibrationMethod
        options: dict[str, Any] = {"symmetric": False}
        if method != "minmax":
            options |= {"num_bins": BINS}
        if method == "percentile":
            options |= {"percentile": PERCENTILE}
        name = self._model.graph.input[0].name
        with tempfile.TemporaryDirectory() as folder, _quiet():
            path = Path(folder) / "float.onnx"
            onnx.save(self._model, path)
            calibrator = calibrate.create_calibrator(
                path,
                [*WEIGHTED, *_BETWEEN],
                augmented_model_path=str(Path(folder) / "augmented.onnx"),
                calibrate_method={
                    "minmax": methods.MinMax, "entropy": methods.Entropy, "percentile": methods.Percentile
                }[method],
                extra_options=options,
            )  # fmt: skip
            for batch in self._batches():
                # One batch at a time: the library keeps every activation of what it is given at once.
                calibrator.collect_data(_Reader(name, batch))
                self._told(len(batch))
            return calibrator.compute_data()


class _Reader:
    """What the library reads one batch from."""

    def __init__(self, name: str, batch: Samples) -> None:
        self._left = [{name: batch}]

    def get_next(self) -> dict[str, Samples] | None:
        return self._left.pop() if self._left else None


def quantise(model: onnx.ModelProto, ranges: Any, in_float: Sequence[str] = ()) -> onnx.ModelProto:  # noqa: ANN401
    """Return a copy of a graph with QDQ pairs around its layers, the scores that go into the softmax left in float.

    Args:
        model: made ready, see `prepare`.
        ranges: see Ranges.
        in_float: layers that stay as they are.
    """
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.metadata_props[:]
    with _quiet():
        quantizer = QDQQuantizer(
            onnx.shape_inference.infer_shapes(copy),
            per_channel=True,
            reduce_range=True,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=ranges,
            nodes_to_quantize=[],
            nodes_to_exclude=sorted(ends(model) | set(in_float)),
            op_types_to_quantize=[*WEIGHTED, *_BETWEEN],
            extra_options={},
        )
        quantizer.quantize_model()
    done: onnx.ModelProto = quantizer.model.model
    _free_scores(done, ends(model))
    quantizer.model.topological_sort()
    return done


def _free_scores(model: onnx.ModelProto, outside: set[str]) -> None:
    """Take away the pair behind the last dense layer: 256 steps over all logits would coarsen every answer."""
    makers = {name: node for node in model.graph.node for name in node.output}
    for node in [node for node in model.graph.node if node.name in outside]:
        for place, name in enumerate(node.input):
            back = makers.get(name)
            forth = makers.get(back.input[0]) if back is not None and back.op_type == "DequantizeLinear" else None
            layer = makers.get(forth.input[0]) if forth is not None else None
            if layer is not None and layer.op_type in {"Gemm", "MatMul"}:
                node.input[place] = layer.output[0]
    used = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}
    for kind in ("DequantizeLinear", "QuantizeLinear"):
        for node in [each for each in model.graph.node if each.op_type == kind and each.output[0] not in used]:
            model.graph.node.remove(node)
        used = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the library prints and logs from the user: it is about the library."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
