from typing import Any

import numpy as np
import pytest

from service.errors import InvalidInput, Unsupported
from service.model import Category, Facts
from service.rpc.pb.inference import service_pb2 as pb
from service.rpc.tensors import classes_wanted, pictures_of, with_classification, with_probabilities
from service.tensors import Tensor

IMAGE = Tensor("image", "UINT8", (-1, 2, 3, 1), "NHWC")
FLOATS = Tensor("data", "FP32", (-1, 3, 1, 2), "NCHW")
HALVES = Tensor("data", "FP16", (-1, 2), None)
OUTPUT = Tensor("probabilities", "FP32", (-1, 4))
FACTS = Facts("linear", 3, "cpu", "fp32", verified=True, sha256="")
MOST = 8
PIXELS = np.arange(12, dtype=np.uint8)


def request(*raw: bytes, datatype: str = "UINT8", shape: tuple[int, ...] = (2, 2, 3, 1), **contents: Any) -> Any:  # noqa: ANN401 - a message
    """Return a request with one input."""
    tensor = pb.ModelInferRequest.InferInputTensor(name="image", datatype=datatype, shape=shape)
    if contents:
        tensor.contents.MergeFrom(pb.InferTensorContents(**contents))
    return pb.ModelInferRequest(inputs=[tensor], raw_input_contents=raw)


def elements(*contents: bytes) -> bytes:
    """Return a raw BYTES tensor."""
    return b"".join(len(content).to_bytes(4, "little") + content for content in contents)


@pytest.mark.parametrize(
    "asked", [request(PIXELS.tobytes()), request(uint_contents=PIXELS.tolist())], ids=["raw", "typed"]
)
def test_pixels(asked: pb.ModelInferRequest) -> None:
    """Pixels, raw or typed, become samples of the model's shape."""
    first, second = pictures_of(asked, IMAGE, MOST)
    np.testing.assert_array_equal(np.stack([np.asarray(first), np.asarray(second)]), PIXELS.reshape(2, 2, 3, 1))
    assert isinstance(first, np.ndarray)
    assert first.dtype == np.uint8


@pytest.mark.parametrize("typed", [False, True])
def test_floats(*, typed: bool) -> None:
    """The input of a model that takes floats is read as it says."""
    values = np.array([0.5, -1, 2, 3, 4, 5], np.float32)
    asked = request(
        *([] if typed else [values.tobytes()]),
        datatype="FP32",
        shape=(1, 3, 1, 2),
        **({"fp32_contents": values.tolist()} if typed else {}),
    )
    asked.inputs[0].name = "data"
    [sample] = pictures_of(asked, FLOATS, MOST)
    np.testing.assert_array_equal(np.asarray(sample), values.reshape(3, 1, 2))


def test_halves() -> None:
    """FP16 is read in raw form; it has no typed one."""
    values = np.array([[0.5, -1]], np.float16)
    asked = request(values.tobytes(), datatype="FP16", shape=(1, 2))
    asked.inputs[0].name = "data"
    np.testing.assert_array_equal(np.asarray(pictures_of(asked, HALVES, MOST)[0]), values[0])
    asked = request(datatype="FP16", shape=(1, 2), fp32_contents=[1, 2])
    asked.inputs[0].name = "data"
    with pytest.raises(InvalidInput, match="FP16 has no typed form"):
        pictures_of(asked, HALVES, MOST)


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
@pytest.mark.parametrize("typed", [False, True])
def test_files(shape: tuple[int, ...], *, typed: bool) -> None:
    """Elements of BYTES, raw or typed, are picture files."""
    files = [b"one", b""]
    contents: dict[str, Any] = {"bytes_contents": files} if typed else {}
    raw = [] if typed else [elements(*files)]
    assert pictures_of(request(*raw, datatype="BYTES", shape=shape, **contents), IMAGE, MOST) == files


RAW = PIXELS.tobytes()
WRONG = {
    "no input": (pb.ModelInferRequest(), "inputs: expected 1 tensor, 'image', got 0"),
    "two inputs": (pb.ModelInferRequest(inputs=[{}, {}]), "inputs: expected 1 tensor, 'image', got 2"),
    "name": (pb.ModelInferRequest(inputs=[{"name": "x"}]), "inputs[0].name: expected 'image', got 'x'"),
    "nothing": (request(), "inputs[0]: has no elements, neither in raw_input_contents nor in contents"),
    "both": (request(RAW, uint_contents=[1]), "inputs[0].contents: has elements and so has raw_input_contents"),
    "raw twice": (request(RAW, RAW), "raw_input_contents: expected 1 entry, one for each input, got 2"),
    "datatype": (request(RAW, datatype="INT8"), "expected UINT8, or BYTES for picture files, got 'INT8'"),
    "rank": (
        request(RAW, shape=(2, 6)),
        "inputs[0].shape: expected [-1, 2, 3, 1] (batch, height, width, channels), got [2, 6]",
    ),
    "no shape": (request(RAW, shape=()), "expected [-1, 2, 3, 1] (batch, height, width, channels), got []"),
    "sides": (request(RAW, shape=(2, 3, 2, 1)), "got [2, 3, 2, 1]"),
    "batch of none": (request(b"", shape=(0, 2, 3, 1)), "got [0, 2, 3, 1]"),
    "negative batch": (request(RAW, shape=(-1, 2, 3, 1)), "got [-1, 2, 3, 1]"),
    "many dimensions": (request(RAW, shape=(1,) * 99), "got 99 dimensions"),
    "short": (request(RAW[1:]), "raw_input_contents[0]: expected 12 bytes for UINT8 [2, 2, 3, 1], got 11"),
    "too many": (
        request(RAW, shape=(1 << 60, 2, 3, 1)),
        "inputs[0].shape: 1,152,921,504,606,846,976 pictures in one request; the limit is 8",
    ),
    "too many files": (request(b"", datatype="BYTES", shape=(9,)), "9 pictures in one request; the limit is 8"),
    "few": (
        request(uint_contents=[1]),
        "inputs[0].contents.uint_contents: expected 12 elements for UINT8 [2, 2, 3, 1], got 1",
    ),
    "other field": (request(int_contents=PIXELS.tolist()), "uint_contents: expected 12 elements"),
    "large": (request(uint_contents=[0] * 11 + [256]), "inputs[0].contents.uint_contents[11]: is 256"),
    "files' shape": (
        request(elements(b""), datatype="BYTES", shape=(1, 2)),
        "inputs[0].shape: expected [-1] or [-1, 1] (batch) for BYTES, got [1, 2]",
    ),
    "no files": (request(b"", datatype="BYTES", shape=(0,)), "got [0]"),
    "fewer files": (
        request(elements(b"a"), datatype="BYTES", shape=(2,)),
        "raw_input_contents[0]: expected 2 elements, got 1",
    ),
    "more files": (request(elements(b"a", b"b"), datatype="BYTES", shape=(1,)), "expected 1 elements, got more"),
    "cut file": (
        request(elements(b"a", b"bcd")[:-1], datatype="BYTES", shape=(2,)),
        "raw_input_contents[0]: element 1 ends at byte 12, past the 11 there are",
    ),
    "cut length": (
        request(elements(b"a") + b"\x01\x00", datatype="BYTES", shape=(2,)),
        "element 1 ends at byte 9, past the 7 there are",
    ),
    "typed files": (
        request(datatype="BYTES", shape=(2,), bytes_contents=[b"a"]),
        "inputs[0].contents.bytes_contents: expected 2 elements for BYTES [2], got 1",
    ),
}


@pytest.mark.parametrize(("asked", "text"), WRONG.values(), ids=WRONG.keys())
def test_wrong_input(asked: pb.ModelInferRequest, text: str) -> None:
    """What is wrong with an input is told by its field, what was expected and what came."""
    with pytest.raises(InvalidInput) as caught:
        pictures_of(asked, IMAGE, MOST)
    assert text in str(caught.value)


def wanted(*names: str, **parameter: Any) -> pb.ModelInferRequest:  # noqa: ANN401 - protobuf's own types
    """Return a request for these outputs, the first with a `classification` of this value."""
    asked = pb.ModelInferRequest(outputs=[{"name": name} for name in names])
    if parameter:
        asked.outputs[0].parameters["classification"].MergeFrom(pb.InferParameter(**parameter))
    return asked


@pytest.mark.parametrize(
    ("asked", "classes"),
    [(wanted(), 0), (wanted("probabilities"), 0), (wanted("probabilities", int64_param=3), 3)],
    ids=["all outputs", "by name", "classes"],
)
def test_wanted(asked: pb.ModelInferRequest, classes: int) -> None:
    """A request asks for the output as it is, or for so many classes."""
    assert classes_wanted(asked, OUTPUT) == classes


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (wanted("logits"), "outputs[0].name: expected 'probabilities', got 'logits'"),
        (wanted("probabilities", "x"), "outputs[1].name: expected 'probabilities', got 'x'"),
        (wanted("probabilities", "probabilities"), "outputs[1].name: 'probabilities' is asked for twice"),
        (wanted("probabilities", int64_param=0), "outputs[0].parameters[classification]: must be an int64_param"),
        (wanted("probabilities", int64_param=-1), "at least 1"),
        (wanted("probabilities", string_param="3"), "must be an int64_param"),
        (wanted("probabilities", uint64_param=3), "must be an int64_param"),
    ],
)
def test_wrong_output(asked: pb.ModelInferRequest, text: str) -> None:
    """An output that is not there, or no number of classes, is told by its field."""
    with pytest.raises(InvalidInput) as caught:
        classes_wanted(asked, OUTPUT)
    assert text in str(caught.value)


def test_shared_memory() -> None:
    """Tensors in shared memory are not supported, on either side."""
    region = {"shared_memory_region": pb.InferParameter(string_param="a")}
    taken = pb.ModelInferRequest(inputs=[{"name": "image", "parameters": region}])
    with pytest.raises(Unsupported, match=r"inputs\[0\]: shared memory"):
        pictures_of(taken, IMAGE, MOST)
    given = pb.ModelInferRequest(outputs=[{"name": "probabilities", "parameters": region}])
    with pytest.raises(Unsupported, match=r"outputs\[0\]: shared memory"):
        classes_wanted(given, OUTPUT)


def test_probabilities() -> None:
    """Probabilities go out raw, little endian, row by row."""
    rows = np.array([[0.25, 0.75], [1, 0]], np.float32)
    response = with_probabilities(FACTS, "id", OUTPUT, rows)
    assert (response.model_name, response.model_version, response.id) == ("linear", "3", "id")
    [output], [raw] = response.outputs, response.raw_output_contents
    assert (output.name, output.datatype, list(output.shape)) == ("probabilities", "FP32", [2, 2])
    assert not output.HasField("contents")
    np.testing.assert_array_equal(np.frombuffer(raw, "<f4").reshape(2, 2), rows)


def test_classification() -> None:
    """Classes go out as texts of three parts, six decimals, each with its length before it."""
    rows = [[Category(7, "a:b", 0.1234567), Category(0, "", 1e-9)]]
    response = with_classification(FACTS, "", OUTPUT, rows)
    [output], [raw] = response.outputs, response.raw_output_contents
    assert (output.datatype, list(output.shape)) == ("BYTES", [1, 2])
    assert raw == elements(b"0.123457:7:a_b", b"0.000000:0:0")
