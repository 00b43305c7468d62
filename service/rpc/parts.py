"""How many fields a message has, told before it is parsed. Standard library only.

Each field becomes an object, however small it is on the wire: 8 MB of empty pictures took a second to parse and five to
look at, and as long nobody else was answered. A message of ours that is large has few fields, which are large.
"""

from collections.abc import Sequence

MOST = 70_000
"""Fields of one message: more than the 65,536 pictures that `--queue-size` can allow."""
INSIDE = {"ModelInferRequest": (5, 5)}
"""Where messages may hold many small parts: of `inputs` the `contents`, whose elements may be pictures."""
_VARINT, _FIXED64, _BYTES, _GROUP, _GROUP_END, _FIXED32 = range(6)


def are_too_many(raw: bytes, most: int = MOST, inside: Sequence[int] = ()) -> bool:
    """Return whether a message has more fields than `most`, those within its fields left out.

    But for those of one field, by number, and of one within that, and so on: `inside`. Those count too.

    Bytes that are no message have as many as there are before they go wrong. Takes 0.5 us a field, and nothing where
    there is no room for so many.
    """
    if len(raw) <= 2 * most:
        return False
    place, ends = 0, [len(raw)]
    for _ in range(most):
        while place >= ends[-1] and len(ends) > 1:
            ends.pop()
        if place >= len(raw):
            return False
        key, place = _varint(raw, place)
        kind = key & 7
        if kind == _BYTES:
            length, place = _varint(raw, place)
            if len(ends) <= len(inside) and key >> 3 == inside[len(ends) - 1]:
                ends.append(place + length)
            else:
                place += length
        elif kind == _VARINT:
            _, place = _varint(raw, place)
        elif kind in {_FIXED64, _FIXED32}:
            place += 8 if kind == _FIXED64 else 4
        elif kind not in {_GROUP, _GROUP_END}:  # each end of a group counts as a field, and so does what is between
            return False
    return place < len(raw)


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
