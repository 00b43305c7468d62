"""Protobuf's wire format: the fields of a message in a file, one after another, without reading what is not asked for.

ONNX files are protobuf. Serving never imports onnx; to read a 100 MB file by a session costs 150 ms and 190 MB, to skip
over its fields 9 ms.
"""

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from .errors import ModelRejected

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_FIELDS = 500_000
"""Most fields of one file, read in about a second; DenseNet-121, the longest of the classic graphs, has 25,000. Without
a limit a gigabyte of empty fields would take an hour."""
_LONGEST = 10
"""Bytes of a varint of 64 bits."""
_BLOCK = 16_384
"""Bytes that are read at once: most fields of a graph are shorter than 20."""
_FIXED = {FIXED64: 8, FIXED32: 4}


class Field(NamedTuple):
    """One field: the reader stands at its content, which ends `size` bytes on; a varint has its value, and no size."""

    number: int
    wire_type: int
    size: int
    value: int


class Wire:
    """Reads the fields of one file's messages; messages nest, the position is the only state.

    Args:
        file: seekable.
        limit: most fields in all.
    """

    def __init__(self, file: BinaryIO, limit: int = MAX_FIELDS) -> None:
        self._file = file
        self._limit = self._left = limit
        self._at = 0
        self._buffer, self._start = b"", 0  # what was read of the file last, and where that begins

    @property
    def at(self) -> int:
        """Where it stands in the file."""
        return self._at

    def fields(self, size: int) -> Iterator[Field]:
        """Yield the fields of a message that begins here and has `size` bytes; the caller may read a content or not.

        Raises:
            ValueError: it is not a whole message.
            ModelRejected: too many fields.
        """
        end = self._at + size
        while self._at < end:
            self._left -= 1
            if self._left < 0:
                raise ModelRejected(f"the file has more than {self._limit:,} protobuf fields; that is no classifier")
            tag = self._varint()
            number, wire_type, length, value = tag >> 3, tag & 7, 0, 0
            if wire_type == BYTES:
                length = self._varint()
            elif wire_type == VARINT:
                value = self._varint()
            elif wire_type in _FIXED:
                length = _FIXED[wire_type]
            else:
                raise ValueError(f"wire type {wire_type}")
            following = self._at + length
            if number == 0 or following > end:
                raise ValueError("field past the end")
            yield Field(number, wire_type, length, value)
            self._at = following

    def read(self, size: int) -> bytes:
        """Return the next bytes, fewer where the file ends."""
        offset = self._at - self._start
        if offset >= 0 and offset + size <= len(self._buffer):
            content = self._buffer[offset : offset + size]
        else:
            self._file.seek(self._at)
            content = self._file.read(size)
        self._at += len(content)
        return content

    def text(self, field: Field, limit: int = 65_536) -> str:
        """Return a field's text.

        Raises:
            ValueError: it is no text, or longer than `limit` bytes.
        """
        if field.wire_type != BYTES or field.size > limit:
            raise ValueError(f"field {field.number} has {field.size:,} bytes; the limit is {limit:,}")
        return self.read(field.size).decode()

    def _varint(self) -> int:
        offset = self._at - self._start
        if not 0 <= offset <= len(self._buffer) - _LONGEST:
            self._file.seek(self._at)
            self._buffer, self._start, offset = self._file.read(_BLOCK), self._at, 0
        value = shift = 0
        for byte in self._buffer[offset : offset + _LONGEST]:
            self._at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
        raise ValueError("cut varint")
