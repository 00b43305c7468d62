"""Tensors of the Open Inference Protocol: a request's input to pictures, probabilities to a response's output."""

from collections.abc import Mapping, Sequence
from math import prod
from struct import Struct
from typing import Any

import numpy as np
import numpy.typing as npt

from service.errors import InvalidInput, Unsupported
from service.model import Category, Facts, Model, Picture, Probabilities
from service.rpc.pb.inference import service_pb2 as pb
from service.tensors import Tensor

_BYTES = "BYTES"
_DTYPES: dict[str, np.dtype[Any]] = {"UINT8": np.dtype("<u1"), "FP16": np.dtype("<f2"), "FP32": np.dtype("<f4")}
_TYPED: dict[str, tuple[str, str]] = {"UINT8": ("uint_contents", "<u4"), "FP32": ("fp32_contents", "<f4")}
"""The field that holds a datatype's elements in typed form, and their type there; FP16 has none."""
_DIMENSIONS = {"NHWC": "batch, height, width, channels", "NCHW": "batch, channels, height, width"}
_LENGTH = Struct("<I")
_SHARED_MEMORY = "shared_memory_region"
_SHOWN = 80
"""Characters of a caller's text that a message repeats."""
_MOST_DIMENSIONS = 8
"""Twice what a model takes; more are refused before they are looked at."""


def tensors_of(model: Model) -> tuple[Tensor, Tensor]:
    """Return the input and the output that callers see of a model."""
    return model.input, model.output


def pictures_of(request: pb.ModelInferRequest, expected: Tensor, most: int) -> Sequence[Picture]:
    """Return the pictures in the one input of a request: files where they are BYTES, else samples of the model's shape.

    Args:
        request: its first input is read.
        expected: what the model takes.
        most: pictures; more are refused before any of them is looked at.

    Raises:
        InvalidInput: a name, datatype, shape or number of elements is not what the model takes; says both.
        Unsupported: the input is in shared memory.
    """
    if len(request.inputs) != 1:
        raise InvalidInput("inputs", f"expected 1 tensor, {expected.name!r}, got {len(request.inputs)}")
    tensor = request.inputs[0]
    if tensor.name != expected.name:
        raise InvalidInput("inputs[0].name", f"expected {expected.name!r}, got {tensor.name[:_SHOWN]!r}")
    _refuse_shared_memory("inputs[0]", tensor.parameters)
    raw = _raw(request, tensor)
    if len(tensor.shape) > _MOST_DIMENSIONS:
        raise InvalidInput("inputs[0].shape", f"got {len(tensor.shape):,} dimensions; the limit is {_MOST_DIMENSIONS}")
    shape = tuple(tensor.shape)
    if shape and shape[0] > most:
        raise InvalidInput("inputs[0].shape", f"{shape[0]:,} pictures in one request; the limit is {most:,}")
    if tensor.datatype == _BYTES:
        return _files(shape, raw, tensor.contents)
    if tensor.datatype != expected.datatype:
        raise InvalidInput(
            "inputs[0].datatype",
            f"expected {expected.datatype}, or BYTES for picture files, got {tensor.datatype[:_SHOWN]!r}",
        )
    if len(shape) != len(expected.shape) or shape[1:] != expected.shape[1:] or shape[0] < 1:
        meaning = f" ({_DIMENSIONS[expected.layout]})" if expected.layout else ""
        raise _wrong_shape(f"{list(expected.shape)}{meaning}", shape)
    elements = _elements(tensor, shape, raw)
    return list(elements.reshape(shape))


def classes_wanted(request: pb.ModelInferRequest, expected: Tensor) -> int:
    """Return how many classes of each picture a request asks for as a classification; 0: the probabilities of all.

    Raises:
        InvalidInput: it asks for an output that is not there, twice for one, or for a count that is none.
        Unsupported: it wants the output in shared memory.
    """
    if not request.outputs:
        return 0
    for number, output in enumerate(request.outputs[:2]):
        if output.name != expected.name:
            raise InvalidInput(f"outputs[{number}].name", f"expected {expected.name!r}, got {output.name[:_SHOWN]!r}")
    if len(request.outputs) > 1:
        raise InvalidInput("outputs[1].name", f"{expected.name!r} is asked for twice; a request gets it once")
    parameters = request.outputs[0].parameters
    _refuse_shared_memory("outputs[0]", parameters)
    if "classification" not in parameters:
        return 0
    count: pb.InferParameter = parameters["classification"]
    if count.WhichOneof("parameter_choice") != "int64_param" or count.int64_param < 1:
        raise InvalidInput("outputs[0].parameters[classification]", "must be an int64_param of at least 1")
    return count.int64_param


def with_probabilities(facts: Facts, request_id: str, output: Tensor, rows: Probabilities) -> pb.ModelInferResponse:
    """Return the response that holds the probabilities [N, classes]."""
    return _response(facts, request_id, output.name, output.datatype, rows.shape, rows.tobytes())


def with_classification(
    facts: Facts, request_id: str, output: Tensor, rows: Sequence[Sequence[Category]]
) -> pb.ModelInferResponse:
    """Return the response that holds the best classes of each picture as texts `value:index:label`."""
    raw = b"".join(_element(_text(category).encode()) for row in rows for category in row)
    return _response(facts, request_id, output.name, _BYTES, (len(rows), len(rows[0])), raw)


def _response(  # noqa: PLR0917 - the fields of one message
    facts: Facts, request_id: str, name: str, datatype: str, shape: tuple[int, ...], raw: bytes
) -> pb.ModelInferResponse:
    message = pb.ModelInferResponse(model_name=facts.name, model_version=str(facts.version), id=request_id)
    message.outputs.add(name=name, datatype=datatype, shape=shape)
    message.raw_output_contents.append(raw)  # always raw: clients read typed elements as an empty tensor
    return message


def _text(category: Category) -> str:
    """Return a class as clients split it: at each colon, and never without a label."""
    label = category.label.replace(":", "_") or str(category.index)
    return f"{category.probability:f}:{category.index}:{label}"


def _element(content: bytes) -> bytes:
    return _LENGTH.pack(len(content)) + content


def _raw(request: pb.ModelInferRequest, tensor: pb.ModelInferRequest.InferInputTensor) -> bytes | None:
    """Return the raw elements of the one input; None where they are typed."""
    raw = request.raw_input_contents
    typed = tensor.HasField("contents") and bool(tensor.contents.ListFields())
    if not raw:
        if not typed:
            raise InvalidInput("inputs[0]", "has no elements, neither in raw_input_contents nor in contents")
        return None
    if typed:
        raise InvalidInput("inputs[0].contents", "has elements and so has raw_input_contents; send one of them")
    if len(raw) != 1:
        raise InvalidInput("raw_input_contents", f"expected 1 entry, one for each input, got {len(raw)}")
    return raw[0]


def _elements(
    tensor: pb.ModelInferRequest.InferInputTensor, shape: tuple[int, ...], raw: bytes | None
) -> npt.NDArray[Any]:
    """Return the elements of a tensor, in one row."""
    dtype, count = _DTYPES[tensor.datatype], prod(shape)
    if raw is not None:
        if len(raw) != count * dtype.itemsize:
            what = f"{count * dtype.itemsize:,} bytes for {tensor.datatype} {list(shape)}"
            raise InvalidInput("raw_input_contents[0]", f"expected {what}, got {len(raw):,}")
        return np.frombuffer(raw, dtype)
    if tensor.datatype not in _TYPED:
        raise InvalidInput("inputs[0].contents", f"{tensor.datatype} has no typed form; send raw_input_contents")
    field, wire = _TYPED[tensor.datatype]
    given = getattr(tensor.contents, field)
    if len(given) != count:
        what = f"{count:,} elements for {tensor.datatype} {list(shape)}"
        raise InvalidInput(f"inputs[0].contents.{field}", f"expected {what}, got {len(given):,}")
    elements = np.array(given, wire)
    if dtype.kind == "u" and elements.max() > np.iinfo(dtype).max:
        at = int(elements.argmax())
        raise InvalidInput(
            f"inputs[0].contents.{field}[{at}]", f"is {elements[at]}; the most that {tensor.datatype} holds is 255"
        )
    return elements.astype(dtype, copy=False)


def _files(shape: tuple[int, ...], raw: bytes | None, contents: pb.InferTensorContents) -> list[bytes]:
    """Return the elements of a BYTES tensor: picture files."""
    if not shape or shape[0] < 1 or shape[1:] not in {(), (1,)}:
        raise _wrong_shape("[-1] or [-1, 1] (batch) for BYTES", shape)
    if raw is not None:
        return _split(raw, shape[0])
    if len(contents.bytes_contents) != shape[0]:
        raise InvalidInput(
            "inputs[0].contents.bytes_contents",
            f"expected {shape[0]:,} elements for BYTES {list(shape)}, got {len(contents.bytes_contents):,}",
        )
    return list(contents.bytes_contents)


def _split(raw: bytes, count: int) -> list[bytes]:
    """Return the elements of a raw BYTES tensor: each its length in four bytes, then its bytes."""
    elements: list[bytes] = []
    start = 0
    while start < len(raw):
        begin = start + _LENGTH.size
        end = begin + _LENGTH.unpack_from(raw, start)[0] if begin <= len(raw) else begin
        if end > len(raw):
            raise InvalidInput(
                "raw_input_contents[0]",
                f"element {len(elements)} ends at byte {end:,}, past the {len(raw):,} there are",
            )
        elements.append(raw[begin:end])
        start = end
        if len(elements) > count:
            raise InvalidInput("raw_input_contents[0]", f"expected {count:,} elements, got more")
    if len(elements) != count:
        raise InvalidInput("raw_input_contents[0]", f"expected {count:,} elements, got {len(elements):,}")
    return elements


def _wrong_shape(expected: str, got: tuple[int, ...]) -> InvalidInput:
    shown = str(list(got)) if len(got) <= 8 else f"{len(got)} dimensions"
    return InvalidInput("inputs[0].shape", f"expected {expected}, got {shown}")


def _refuse_shared_memory(field: str, parameters: Mapping[str, pb.InferParameter]) -> None:
    if parameters and _SHARED_MEMORY in parameters:
        raise Unsupported(f"{field}: shared memory is not supported; send tensors in the message")
