"""What a message is made of, as protobuf would find it."""

import pytest

from service.errors import InvalidInput
from service.rpc import parts
from service.rpc.calls import parse
from service.rpc.pb.inference import service_pb2 as oip
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb

MOST = 10
INSIDE = parts.INSIDE[oip.ModelInferRequest.__name__]
TENSOR = oip.ModelInferRequest.InferInputTensor


def are_too_many(raw: bytes, most: int = parts.MOST, inside: parts.Inside = parts.NOTHING) -> bool:
    """Return whether a message is refused for its fields."""
    try:
        parts.check(raw, inside, most)
    except InvalidInput as error:
        assert (error.field, error.reason) == ("request", f"has more than {most:,} fields, the limit")
        return True
    return False


def message(fields: int) -> bytes:
    """Return a message of so many fields, of all kinds."""
    kinds = [b"\x1a\x03abc", b"\x20\x80\x01", b"\x09" + bytes(8), b"\x0d" + bytes(4), b"\xf2\xff\x01\x81\x00x"]
    return b"".join(kinds[number % len(kinds)] for number in range(fields))


@pytest.mark.parametrize(("fields", "expected"), [(9, False), (MOST, False), (MOST + 1, True), (1000, True)])
def test_counts(fields: int, expected: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """Fields of every kind are counted, none but the message's own."""
    assert are_too_many(message(fields), MOST) is expected


def test_groups() -> None:
    """An unknown group, which protobuf passes over, hides nothing: its ends count, and so does what follows."""
    assert are_too_many(b"\x7b\x7c" + b"\x1a\x00" * 50, MOST)
    assert not are_too_many(b"\x7b\x7c" + b"\x1a\x7f" + bytes(127), MOST)


def test_within_fields() -> None:
    """What a field holds is not counted, however much it is."""
    assert not are_too_many(pb.ClassifyRequest(images=[pb.Image(encoded=bytes(1000))]).SerializeToString(), MOST)


def test_within_the_fields_that_are_named() -> None:
    """What the fields hold that are named counts, as deep as they are named and no deeper."""
    contents = oip.InferTensorContents(bytes_contents=[b""] * 20, uint_contents=[1] * 200)
    tensor = TENSOR(name="image", contents=contents, shape=[20])
    output = oip.ModelInferRequest.InferRequestedOutputTensor(parameters={"a": oip.InferParameter(int64_param=1)})
    request = oip.ModelInferRequest(
        model_name="model", inputs=[tensor], outputs=[output], raw_input_contents=[bytes(100)]
    )
    raw = request.SerializeToString()
    assert not are_too_many(raw, MOST)
    # model_name, inputs, name, shape, contents, uint_contents, 20 elements, outputs, parameters, raw_input_contents
    assert not are_too_many(raw, 29, INSIDE)
    assert are_too_many(raw, 28, INSIDE)


@pytest.mark.parametrize(
    ("tensor", "error"),
    [
        (
            TENSOR(contents=oip.InferTensorContents(int64_contents=[0] * 200_000)),
            "inputs.contents.int64_contents: has 200,000 bytes of packed numbers; the limit is 0",
        ),
        (
            TENSOR(shape=[0] * 200_000),
            "inputs.shape: has 200,000 bytes of packed numbers; the limit is 80",
        ),
    ],
)
def test_packed(tensor: oip.ModelInferRequest.InferInputTensor, error: str) -> None:
    """Numbers in one piece that no model takes, or so many, are refused by field and limit, before they are parsed."""

    class ModelInferRequest:
        """The message, if nobody parses it."""

        @staticmethod
        def FromString(_: bytes) -> oip.ModelInferRequest:  # noqa: N802 - protobuf's name
            """Fail."""
            raise AssertionError("it was parsed")

    with pytest.raises(InvalidInput) as caught:
        parse(ModelInferRequest, oip.ModelInferRequest(inputs=[tensor]).SerializeToString())
    assert str(caught.value) == error


def test_packed_in_pieces() -> None:
    """Numbers that protobuf makes one field of count together."""
    contents = oip.InferTensorContents(uint_contents=[0] * 5_000_000)
    twice = oip.ModelInferRequest(inputs=[TENSOR(contents=contents)] * 2).SerializeToString()
    parts.check(twice, INSIDE)
    with pytest.raises(InvalidInput, match=r"uint_contents: has 15,000,000 bytes .*; the limit is 10,000,000"):
        parts.check(twice + oip.ModelInferRequest(inputs=[TENSOR(contents=contents)]).SerializeToString(), INSIDE)


def test_packed_pictures() -> None:
    """Samples of 32 pictures of 224 x 224 in colours may come as packed numbers."""
    for contents in (
        oip.InferTensorContents(uint_contents=[255] * (32 * 224 * 224 * 3)),
        oip.InferTensorContents(fp32_contents=[1.0] * (32 * 224 * 224 * 3)),
    ):
        tensor = TENSOR(name="image", shape=[32, 224, 224, 3], contents=contents)
        parts.check(oip.ModelInferRequest(inputs=[tensor]).SerializeToString(), INSIDE)


def test_small_messages() -> None:
    """A message that has no room for so many is not looked at."""
    assert not are_too_many(b"\x1a\x00" * MOST, MOST)


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff" * 99,
        b"\x1a\xff\xff\xff\xff\x0f" + bytes(99),
        b"\x1a" + b"\xff" * 99,
        b"\x1a\x7f" + b"a" * 99,
    ],
)
def test_no_message(raw: bytes) -> None:
    """Bytes that are no message end where they go wrong; what to say of them is protobuf's."""
    assert not are_too_many(raw, MOST)


def test_the_largest_of_ours() -> None:
    """The largest request that --queue-size allows is one of few fields."""
    largest = pb.ClassifyRequest(images=[pb.Image(encoded=b"1234567890")] * 65_536)
    assert not are_too_many(largest.SerializeToString())
    tensor = oip.ModelInferRequest(raw_input_contents=[bytes(1 << 20)], id="x" * 100)
    assert not are_too_many(tensor.SerializeToString())
