import io

import pytest

from service.errors import ModelRejected
from service.wire import BYTES, FIXED32, FIXED64, VARINT, Field, Wire

MESSAGE = b"\x08\x96\x01" + b"\x12\x03abc" + b"\x19" + bytes(8) + b"\x25" + bytes(4) + b"\x12\x00"


def read(content: bytes, size: int | None = None, limit: int = 100) -> list[Field]:
    """Return the fields of a message."""
    return list(Wire(io.BytesIO(content), limit).fields(len(content) if size is None else size))


def test_fields() -> None:
    """Fields of every kind are told by number, kind, size and value."""
    assert read(MESSAGE) == [
        (1, VARINT, 0, 150),
        (2, BYTES, 3, 0),
        (3, FIXED64, 8, 0),
        (4, FIXED32, 4, 0),
        (2, BYTES, 0, 0),
    ]


def test_nested() -> None:
    """A message within a field is read where it stands, and the reader goes on behind it."""
    inner = b"\x0a\x02hi"
    wire = Wire(io.BytesIO(b"\x12\x04" + inner + b"\x08\x05"))
    found: list[int | str] = []
    for field in wire.fields(8):
        found.append(field.number)
        if field.wire_type == BYTES:
            found += [wire.text(part) for part in wire.fields(field.size)]
    assert found == [2, "hi", 1]


def test_long_contents() -> None:
    """What is longer than a block is skipped and read whole."""
    long = bytes(range(256)) * 200
    content = b"\x12" + b"\x80\x90\x03" + long + b"\x1a\x02ok"
    wire = Wire(io.BytesIO(content))
    assert [wire.read(field.size) for field in wire.fields(len(content))] == [long, b"ok"]


@pytest.mark.parametrize(
    "content",
    [
        b"\x80" * 20,
        b"\x12\x05abc",
        b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x08",
        b"\x00\x01",
        b"\x0b",
        b"\x19\x00",
    ],
    ids=["endless varint", "past the end", "9 EB", "endless size", "cut", "field 0", "a group", "cut number"],
)
def test_no_message(content: bytes) -> None:
    """What is not a whole message is a ValueError, at once."""
    with pytest.raises(ValueError, match=r"varint|past the end|wire type"):
        read(content)


def test_too_many_fields() -> None:
    """A file of more fields than the limit is refused, those within fields counted too."""
    with pytest.raises(ModelRejected, match="more than 100 protobuf fields"):
        read(b"\x08\x00" * 101)
    assert len(read(b"\x08\x00" * 100)) == 100


def test_long_text() -> None:
    """A text longer than allowed is not read."""
    wire = Wire(io.BytesIO(b"\x0a\x03abc"))
    (field,) = [next(wire.fields(5))]
    with pytest.raises(ValueError, match="3 bytes; the limit is 2"):
        wire.text(field, 2)
