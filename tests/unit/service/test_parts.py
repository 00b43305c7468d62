"""How many fields a message has, as protobuf would find them."""

import pytest

from service.rpc import parts
from service.rpc.pb.inference import service_pb2 as oip
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb

MOST = 10


def message(fields: int) -> bytes:
    """Return a message of so many fields, of all kinds."""
    kinds = [b"\x1a\x03abc", b"\x20\x80\x01", b"\x09" + bytes(8), b"\x0d" + bytes(4), b"\xf2\xff\x01\x81\x00x"]
    return b"".join(kinds[number % len(kinds)] for number in range(fields))


@pytest.mark.parametrize(("fields", "expected"), [(9, False), (MOST, False), (MOST + 1, True), (1000, True)])
def test_counts(fields: int, expected: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """Fields of every kind are counted, none but the message's own."""
    assert parts.are_too_many(message(fields), MOST) is expected


def test_groups() -> None:
    """An unknown group, which protobuf passes over, hides nothing: its ends count, and so does what follows."""
    assert parts.are_too_many(b"\x7b\x7c" + b"\x1a\x00" * 50, MOST)
    assert not parts.are_too_many(b"\x7b\x7c" + b"\x1a\x7f" + bytes(127), MOST)


def test_within_fields() -> None:
    """What a field holds is not counted, however much it is."""
    assert not parts.are_too_many(pb.ClassifyRequest(images=[pb.Image(encoded=bytes(1000))]).SerializeToString(), MOST)


def test_within_the_fields_that_are_named() -> None:
    """What the fields hold that are named counts, as deep as they are named and no deeper."""
    contents = oip.InferTensorContents(bytes_contents=[b""] * 20, uint64_contents=[1] * 200)
    tensor = oip.ModelInferRequest.InferInputTensor(name="image", contents=contents, shape=[20])
    request = oip.ModelInferRequest(model_name="model", inputs=[tensor], raw_input_contents=[bytes(100)])
    raw, inside = request.SerializeToString(), parts.INSIDE[oip.ModelInferRequest.__name__]
    assert not parts.are_too_many(raw, MOST)
    # model_name, inputs, name, shape, contents, uint64_contents, 20 elements, raw_input_contents
    assert not parts.are_too_many(raw, 27, inside)
    assert parts.are_too_many(raw, 26, inside)


def test_small_messages() -> None:
    """A message that has no room for so many is not looked at."""
    assert not parts.are_too_many(b"\x1a\x00" * MOST, MOST)


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
    assert not parts.are_too_many(raw, MOST)


def test_the_largest_of_ours() -> None:
    """The largest request that --queue-size allows is one of few fields."""
    largest = pb.ClassifyRequest(images=[pb.Image(encoded=b"1234567890")] * 65_536)
    assert not parts.are_too_many(largest.SerializeToString())
    tensor = oip.ModelInferRequest(raw_input_contents=[bytes(1 << 20)], id="x" * 100)
    assert not parts.are_too_many(tensor.SerializeToString())
