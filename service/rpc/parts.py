"""What a message is made of, told before it is parsed. Standard library only.

Each field becomes an object, however small it is on the wire: 8 MB of empty pictures took a second to parse and five to
look at, and as long nobody else was answered. A message of ours that is large has few fields, which are large. And a
packed field is many numbers: 64 MB of zeros as int64 took a second, and half a gigabyte.
"""

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from service.errors import InvalidInput

MOST = 70_000
"""Fields of one message: more than the 65,536 pictures that `--queue-size` can allow."""


class Packed(NamedTuple):
    """A field of numbers in one piece: name, most bytes in a message, all inputs together, and what to send instead."""

    name: str
    most: int
    instead: str = ""


Inside: TypeAlias = "Mapping[int, Inside | Packed]"
"""The fields of a message, by number, which hold fields that count too, or numbers."""

INSIDE: Mapping[str, Inside] = {
    "ModelInferRequest": {
        5: {
            3: Packed("inputs.shape", 80),  # 8 dimensions, twice what a model takes, of up to 10 bytes
            5: {  # no model takes elements of the datatypes whose limit is 0
                1: Packed("inputs.contents.bool_contents", 0),
                2: Packed("inputs.contents.int_contents", 0),
                3: Packed("inputs.contents.int64_contents", 0),
                # 32 pictures, the default --max-batch-size, of 224 x 224 x 3 values of up to 2 bytes are 9.6 MB.
                4: Packed("inputs.contents.uint_contents", 10_000_000, "; raw_input_contents takes more"),
                5: Packed("inputs.contents.uint64_contents", 0),
                7: Packed("inputs.contents.fp64_contents", 0),
            },
        },
        6: {},
    }
}
"""Where messages may hold many small parts: in `inputs`, in their `contents`, in `outputs`."""
_VARINT, _FIXED64, _BYTES, _GROUP, _GROUP_END, _FIXED32 = range(6)
NOTHING: Inside = {}


def check(raw: bytes, inside: Inside = NOTHING, most: int = MOST) -> None:
    """Refuse a message of more fields than `most`, those within its fields left out, but for those of `inside`.

    Bytes that are no message have as many as there are before they go wrong. Takes 0.5 us a field, and nothing where
    there is no room for so many.

    Raises:
        InvalidInput: it has more, or more numbers in one piece than `inside` allows.
    """
    if len(raw) <= 2 * most:
        return
    place, within = 0, [(len(raw), inside)]
    sizes: dict[Packed, int] = {}
    for _ in range(most):
        while place >= within[-1][0] and len(within) > 1:
            within.pop()
        if place >= len(raw):
            return
        key, place = _varint(raw, place)
        kind = key & 7
        if kind == _BYTES:
            length, place = _varint(raw, place)
            part = within[-1][1].get(key >> 3)
            if part is None:
                place += length
            elif isinstance(part, Packed):
                _add(sizes, part, length)
                place += length
            else:
                within.append((place + length, part))
        elif kind == _VARINT:
            _, place = _varint(raw, place)
        elif kind in {_FIXED64, _FIXED32}:
            place += 8 if kind == _FIXED64 else 4
        elif kind not in {_GROUP, _GROUP_END}:  # each end of a group counts as a field, and so does what is between
            return
    if place < len(raw):
        raise InvalidInput("request", f"has more than {most:,} fields, the limit")


def _add(sizes: dict[Packed, int], part: Packed, length: int) -> None:
    """Add a piece of a packed field, of which protobuf makes one of all its pieces."""
    sizes[part] = sizes.get(part, 0) + length
    if sizes[part] > part.most:
        raise InvalidInput(
            part.name,
            f"has {sizes[part]:,} bytes of packed numbers; the limit is {part.most:,}{part.instead}",
        )


def _varint(raw: bytes, place: int) -> tuple[int, int]:
    """Return the number that begins here and where it ends; past the end where it does not."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(raw):
            break
        byte = raw[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    return 0, len(raw)
