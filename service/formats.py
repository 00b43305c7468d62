"""Formats of picture files: which one a file has, told by its content, and only the parts of it that pixels need.

A decoder never sees the rest. Text, profiles, previews, further frames and pages are where bombs hide (a PNG of 64 KB
unpacks to 64 MB of text) and what decoders warn about. Standard library only: nothing here decodes or warns.
"""

import math
import re
import struct
import zlib
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from .errors import InvalidInput

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
SEND = "send a JPEG, PNG, WebP, GIF, BMP or TIFF file"

MAX_PARTS = 20_000
"""Most segments, chunks, strips or tiles of a file: 160 MB of PNG in the usual 8 KB chunks. Each costs half a
microsecond of Python while nothing else runs: 64 MB of nothing but empty parts would hold the process for 8 s."""

MAX_SCANS = 100
"""Most scans of one JPEG. Progressive ones have about ten; an empty one of 90 bytes costs 70 ms at 50 megapixels."""


class Source(NamedTuple):
    """A picture's file as a decoder may see it.

    Attributes:
        format: one of FORMATS.
        data: the file without what pixels do not need.
        orientation: how EXIF says that the picture lies, 1 (upright) to 8.
        room: pixels that a decoder makes room for at a time, where they are more than the picture has.
    """

    format: str
    data: bytes
    orientation: int = 1
    room: int = 0


def read(encoded: bytes, *, max_pixels: int) -> Source:
    """Return what a decoder may see of a picture's file.

    Raises:
        InvalidInput: it is of another format, cut or broken where that can be told without decoding, or a bomb.
    """
    reader = next((reader for magic, reader in _READERS if magic.match(encoded)), None)
    if reader is None:
        raise InvalidInput("image", f"{len(encoded):,} bytes of no format that can be decoded; {SEND}")
    try:
        return reader(encoded, max_pixels)
    except (struct.error, ValueError, KeyError, IndexError):
        raise broken(encoded) from None


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse a picture of too many pixels."""
    if width * height > max_pixels:
        raise InvalidInput("image", f"has {width} x {height} = {width * height:,} pixels; the limit is {max_pixels:,}")


def broken(encoded: bytes) -> InvalidInput:
    """Return the refusal of a file that is cut or damaged."""
    return InvalidInput("image", f"{len(encoded):,} bytes that cannot be decoded: cut or damaged; send the whole file")


def _jpeg(encoded: bytes, _: int) -> Source:
    """Keep no previews, profiles and comments; a decoder reads no further than the first picture."""
    kept: list[bytes | memoryview] = [encoded[:2]]
    orientation, frame, place = 0, b"", 2
    for _part in range(MAX_PARTS):
        place = encoded.index(b"\xff", place)
        marker = encoded[place + 1]
        if marker == 0xDA:
            break
        if marker in _BARE:
            place += 1 if marker == 0xFF else 2
            continue
        (length,) = struct.unpack_from(">H", encoded, place + 2)
        segment = encoded[place : place + 2 + length]
        if marker in _FRAMES:
            frame = segment
        if marker == 0xE1 and segment[4:10] == b"Exif\0\0":
            orientation = orientation or _orientation(segment[10:])
        elif marker not in _UNNEEDED:
            kept.append(segment)
        place += 2 + length
    else:
        raise _too_many("segments")
    end = len(encoded)
    if frame[1] not in {0xC0, 0xC1} or frame[9] != encoded[place + 4]:
        # Several scans. No picture contains this pair of bytes, so that the decoder sees just what was counted.
        end = encoded.index(b"\xff\xd9", place) + 2
        if (scans := encoded.count(b"\xff\xda", place, end)) > MAX_SCANS:
            raise InvalidInput("image", f"is a JPEG of {scans} scans; the limit is {MAX_SCANS}")
    kept.append(memoryview(encoded)[place:end])
    return Source("JPEG", b"".join(kept), orientation or 1)


_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""JPEG markers of a picture's header."""
_BARE = {0x00, 0x01, *range(0xD0, 0xD9), 0xFF}
"""JPEG markers without a length, and the bytes that may stand between segments."""
_UNNEEDED = {*range(0xE1, 0xEE), 0xEF, 0xFE}
"""JPEG segments of applications and comments; APP0 and APP14 say which colours the numbers mean."""


def _png(encoded: bytes, _: int) -> Source:
    """Keep header, palette, transparency and pixels; an animation's own first picture is what any viewer shows."""
    view, depth, colour = memoryview(encoded), encoded[24], encoded[25]
    kept: list[bytes | memoryview] = [view[:8]]
    kinds, orientation, place = set(), 1, 8
    for _part in range(MAX_PARTS):
        length, kind = struct.unpack_from(">I4s", encoded, place)
        end = place + 12 + length
        kinds.add(kind)
        if kind in _PNG_CHUNKS or not kind[0] & 32:  # lower case: may be left out
            (checksum,) = struct.unpack_from(">I", encoded, end - 4)
            if kind not in _PNG_CHUNKS or checksum != zlib.crc32(view[place + 4 : end - 4]):
                raise broken(encoded)
            if kind == b"eXIf":
                orientation = _orientation(encoded[place + 8 : end - 4])
            elif kind == b"tRNS" and (depth, colour) in _PNG_SCALES:
                kept.append(_scaled_transparency(encoded[place + 8 : end - 4], _PNG_SCALES[depth, colour]))
            else:
                kept.append(view[place:end])
        if kind == b"IEND":
            break
        place = end
    else:
        raise _too_many("chunks")
    if colour == 3 and b"PLTE" not in kinds:
        raise broken(encoded)  # Pillow would make up greys
    return Source("PNG", b"".join(kept), orientation)


_PNG_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"}
_PNG_SCALES = {(2, 0): 85.0, (4, 0): 17.0, (16, 2): 1 / 256}
"""From the transparent colour of a PNG to 8 bits, by bit depth and colour type: Pillow scales the pixels only."""


def _scaled_transparency(body: bytes, scale: float) -> bytes:
    samples = struct.unpack(f">{len(body) // 2}H", body)
    body = b"tRNS" + struct.pack(f">{len(samples)}H", *(int(sample * scale) for sample in samples))
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


def _webp(encoded: bytes, max_pixels: int) -> Source:
    """Look at the canvas: the decoder makes room for it, twice, as soon as it sees the file."""
    size, kind = struct.unpack_from("<I4x4s", encoded, 4)
    end = size + 8
    if end > len(encoded):
        raise broken(encoded)
    if kind == b"VP8X":
        width, height = (int.from_bytes(encoded[place : place + 3], "little") + 1 for place in (24, 27))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", encoded, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", encoded, 26))
    check_size(width, height, max_pixels)
    orientation, place = 1, 12
    for _part in range(MAX_PARTS):
        if place + 8 > end:
            return Source("WEBP", encoded, orientation)
        kind, length = struct.unpack_from("<4sI", encoded, place)
        if kind == b"EXIF":
            orientation = _orientation(encoded[place + 8 : place + 8 + length].removeprefix(b"Exif\0\0"))
        place += 8 + length + length % 2
    raise _too_many("chunks")


def _gif(encoded: bytes, _: int) -> Source:
    return Source("GIF", encoded)


def _bmp(encoded: bytes, _: int) -> Source:
    """Refuse run-length compression: at 50 megapixels it would hold the process for 6 s, and it is rare."""
    (header,) = struct.unpack_from("<I", encoded, 14)
    if header >= 40 and struct.unpack_from("<I", encoded, 30)[0] in {1, 2}:
        raise InvalidInput("image", "is a BMP with run-length compression, which is not supported; send it without")
    return Source("BMP", encoded)


def _tiff(encoded: bytes, max_pixels: int) -> Source:
    """Keep the first page, behind a directory of nothing but the tags that its pixels need."""
    if b"+" in encoded[2:4]:
        raise InvalidInput("image", "is a BigTIFF, which is not supported; send a plain TIFF")
    tags = _Tags(encoded)
    directory = tags.kept()
    compression, photometric, planar = (tags.number(tag, default) for tag, default in ((259, 1), (262, 0), (284, 1)))
    depths, samples = set(tags.numbers(258, (1,))), tags.number(277, 1)
    for wrong, what in (
        (compression not in _TIFF_COMPRESSIONS, f"compression {compression}"),
        (photometric not in {0, 1, 2, 3, 5, 6}, f"colours of kind {photometric}"),
        (set(tags.numbers(339, (1,))) != {1}, "signed or floating-point pixels, whose range it does not say"),
        (not (len(depths) == 1 and depths <= {1, 2, 4, 8, 16}), f"{max(depths)} bits a sample"),
        (samples > 6, f"{samples:,} samples a pixel"),
        # Pillow reads these three as something else than they are.
        (photometric == 0 and depths == {16}, "16 bits a sample that count from white"),
        (photometric == 6 and compression == 1, "uncompressed YCbCr"),
        (planar != 1 and depths == {16} and compression == 1, "uncompressed planes of 16 bits"),
    ):
        if wrong:
            raise InvalidInput(
                "image", f"is a TIFF with {what}, which is not supported; send 8 or 16 bits, RGB or grey"
            )
    if tags.parts(max_pixels) != tags.parts_needed():
        raise broken(encoded)
    padding = bytes(len(encoded) % 2)
    header = encoded[:4] + struct.pack(tags.order + "L", len(encoded) + len(padding))
    room = tags.number(322, 0) * tags.number(323, 0)
    return Source("TIFF", header + encoded[8:] + padding + directory, tags.orientation(), room)


_TIFF_COMPRESSIONS = {1, 5, 7, 8, 32773, 32946}
"""None, LZW, JPEG, deflate, PackBits. Not fax, of which libtiff makes up broken lines, nor what few builds have."""
_TIFF_TAGS: dict[int, tuple[set[int], int]] = {
    **dict.fromkeys((256, 257, 259, 262, 266, 277, 278, 284, 317, 322, 323), ({3, 4}, 1)),
    **dict.fromkeys((258, 338, 339), ({3, 4}, 8)),
    **dict.fromkeys((273, 279, 324, 325), ({3, 4}, MAX_PARTS)),
    320: ({3}, 768),
    347: ({1, 7}, 65535),
    529: ({5}, 3),
    530: ({3}, 2),
    532: ({5}, 6),
}
"""The tags that pixels need: of which types, and how many values at most."""
_TIFF_SIZES = {1: 1, 3: 2, 4: 4, 5: 8, 7: 1}


class _Tags:
    """The tags of the first directory of a TIFF file; EXIF is one too."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.order = "<" if data.startswith(b"II") else ">"
        (start,) = self._unpack("L", 4)
        (count,) = self._unpack("H", start)
        places = range(start + 2, start + 2 + 12 * count, 12)
        self._places = {self._unpack("H", place)[0]: place for place in reversed(places)}  # the first of two counts

    def orientation(self) -> int:
        """Return how the picture lies, 1 to 8."""
        orientation = self.number(274, 1)
        return orientation if 1 <= orientation <= 8 else 1

    def number(self, tag: int, default: int) -> int:
        """Return the first value of a tag, and look at no other: there may be 32 million of them."""
        if tag not in self._places:
            return default
        kind, count, place = self._values(tag)
        if not count:
            raise KeyError(tag)
        return self._unpack("H" if kind == 3 else "L", place)[0]

    def numbers(self, tag: int, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Return the values of a tag that holds whole numbers."""
        if tag not in self._places:
            return default
        kind, count, place = self._values(tag)
        return self._unpack(f"{count}{'H' if kind == 3 else 'L'}", place)

    def kept(self) -> bytes:
        """Return a directory of the tags that pixels need.

        Raises:
            InvalidInput: one of them has more values than any picture needs.
            KeyError: one of them is of a type that it never has.
        """
        entries = []
        for tag in sorted(self._places.keys() & _TIFF_TAGS.keys()):
            kind, count, place = self._values(tag)
            kinds, most = _TIFF_TAGS[tag]
            if count > most:
                raise InvalidInput("image", f"is a TIFF whose tag {tag} has {count:,} values; the limit is {most:,}")
            if kind not in kinds or not count or place + count * _TIFF_SIZES[kind] > len(self._data):
                raise KeyError(tag)
            entries.append(self._data[self._places[tag] : self._places[tag] + 12])
        return struct.pack(self.order + "H", len(entries)) + b"".join(entries) + bytes(4)

    def parts(self, max_pixels: int) -> int:
        """Return how many strips or tiles lie within the file."""
        offset, size = (324, 325) if 322 in self._places else (273, 279)
        check_size(self.number(322, 0), self.number(323, 0), max_pixels)  # libtiff makes room for a whole tile
        both = zip(self.numbers(offset), self.numbers(size), strict=True)
        return sum(start + length <= len(self._data) for start, length in both)

    def parts_needed(self) -> int:
        """Return how many strips or tiles the picture must have; what is missing would be made up as black."""
        width, height = self.number(256, 0), self.number(257, 0)
        across = self.number(322, width)
        down = min(self.number(323, self.number(278, height)), height)
        planes = self.number(277, 1) if self.number(284, 1) == 2 else 1
        if not across or not down:
            raise broken(self._data)
        return math.ceil(width / across) * math.ceil(height / down) * planes

    def _values(self, tag: int) -> tuple[int, int, int]:
        """Return the type of a tag's values, how many they are, and where they lie."""
        place = self._places[tag]
        kind, count, offset = self._unpack("HLL", place + 2)
        return kind, count, place + 8 if count * _TIFF_SIZES[kind] <= 4 else offset

    def _unpack(self, layout: str, place: int) -> tuple[int, ...]:
        return struct.unpack_from(self.order + layout, self._data, place)


def _orientation(exif: bytes) -> int:
    """Return how EXIF says that the picture lies; a picture whose EXIF is broken is shown as it lies."""
    try:
        return _Tags(exif).orientation()
    except (struct.error, LookupError):
        return 1


def _too_many(parts: str) -> InvalidInput:
    return InvalidInput("image", f"has too many {parts} that hold no pixels; the limit is {MAX_PARTS:,}")


_Reader: TypeAlias = Callable[[bytes, int], Source]
_READERS: tuple[tuple[re.Pattern[bytes], _Reader], ...] = (
    (re.compile(rb"\xff\xd8\xff"), _jpeg),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), _png),
    (re.compile(rb"RIFF.{4}WEBPVP8[ LX]", re.DOTALL), _webp),
    (re.compile(rb"GIF8[79]a"), _gif),
    (re.compile(rb"BM"), _bmp),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), _tiff),
)
"""How a file of each format begins, and who reads it."""
