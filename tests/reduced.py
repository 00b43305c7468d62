"""Ruined files of reduced precision, as a broken tool would leave them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from export import int8


def ruin(model: onnx.ModelProto) -> onnx.ModelProto:
    """Divide the scale of every quantised activation by 8, in place: what is larger is cut off."""
    scales = {node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    for tensor in model.graph.initializer:
        if tensor.name in scales:
            value = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(value / 8, np.float32), tensor.name))
    return model


def ruined(model: onnx.ModelProto, ranges: Any, in_float: Sequence[str] = ()) -> onnx.ModelProto:  # noqa: ANN401
    """Quantise as int8.quantise does, with wrong scales."""
    return ruin(int8.quantise(model, ranges, in_float))


def ruin_file(path: Path) -> None:
    """Ruin a published file; its manifest stays, golden samples and verdicts included."""
    model = onnx.load(path)
    onnx.save(ruin(model), path)
