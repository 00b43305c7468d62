"""Small picture files of every format, whole and by their parts, so that tests can break them in one place."""

import io
import struct
import zlib
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[np.uint8]
Values = int | tuple[int, ...]

NOISE: Array = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:  # noqa: ANN401 - as Pillow takes them
    """Return a picture's file."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def smooth(height: int, width: int) -> Array:
    """Return a picture that changes slowly, as photographs do."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 17 + shift) * np.cos(y / 13 - shift) for shift in (0, 1, 2)]
    return np.asarray(127.5 + 127.5 * np.stack(waves, axis=2), np.uint8)


def flat(mode: str, colour: Any, side: int = 16) -> Image.Image:  # noqa: ANN401 - as Pillow takes it
    """Return a picture of one colour."""
    return Image.new(mode, (side, side), colour)


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    """Return a PNG chunk with a right checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    width: int, height: int, depth: int, colour: int, *chunks: tuple[bytes, bytes], interlaced: bool = False
) -> bytes:
    """Return a PNG file of these chunks, with a right header, sums and end."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    parts = [(b"IHDR", header), *chunks, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, body) for kind, body in parts)


def rows(lines: npt.NDArray[Any]) -> bytes:
    """Return the pixels of a PNG, unfiltered, one line of samples a row."""
    return b"".join(b"\0" + line.tobytes() for line in lines)


def interlaced_png(array: Array) -> bytes:
    """Return a greyscale PNG whose pixels come in the seven passes of Adam7."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    body = b"".join(rows(array[y::down, x::right]) for y, x, down, right in passes)
    return png(array.shape[1], array.shape[0], 8, 0, (b"IDAT", zlib.compress(body)), interlaced=True)


def segment(marker: int, body: bytes) -> bytes:
    """Return a JPEG segment."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def after_start(jpeg: bytes, *segments: bytes) -> bytes:
    """Return a JPEG with more segments right after its first marker."""
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def exif(orientation: int = 1, *entries: bytes, count: int | None = None) -> bytes:
    """Return EXIF of an orientation and other entries of 12 bytes, which may claim another count of entries."""
    listed = [struct.pack("<HHLHH", 0x0112, 3, 1, orientation, 0), *entries]
    return b"II*\0\x08\0\0\0" + struct.pack("<H", count or len(listed)) + b"".join(listed) + bytes(4)


def gif(screen: tuple[int, int], frame: tuple[int, int, int, int], pixels: bytes, extension: bytes = b"") -> bytes:
    """Return a GIF of four colours: red, green, blue, grey.

    Args:
        screen: its width and height.
        frame: where its only frame lies: left, top, width, height.
        pixels: the colour of each, 0 to 3.
        extension: what stands before the frame.
    """
    header = b"GIF89a" + struct.pack("<HHBBB", *screen, 0b1001_0001, 0, 0)
    colours = bytes([250, 0, 0, 0, 250, 0, 0, 0, 250, 100, 100, 100])
    # Codes of 3 bits: 4 clears, 5 ends. Cleared before every pixel, they never grow.
    codes = [code for pixel in pixels for code in (4, pixel)] + [5]
    bits = sum(code << 3 * place for place, code in enumerate(codes))
    data = bits.to_bytes(len(codes) * 3 // 8 + 1, "little")
    blocks = b"".join(bytes([len(data[i : i + 255])]) + data[i : i + 255] for i in range(0, len(data), 255))
    return header + colours + extension + b"," + struct.pack("<HHHHB", *frame, 0) + b"\x02" + blocks + b"\0;"


def bmp(width: int, height: int, bits: int = 24, compression: int = 0, pixels: bytes = b"") -> bytes:
    """Return a BMP."""
    header = struct.pack("<LllHHLLllLL", 40, width, height, 1, bits, compression, len(pixels), 0, 0, 0, 0)
    palette = bytes(4 << bits) if bits <= 8 else b""
    offset = 14 + len(header) + len(palette)
    return struct.pack("<2sLHHL", b"BM", offset + len(pixels), 0, 0, offset) + header + palette + pixels


def tiff(tags: dict[int, Values], *strips: bytes, order: str = "<", magic: int = 42, following: int = 0) -> bytes:
    """Return a TIFF whose directory stands before its pixels, as cameras write it.

    Args:
        tags: whole numbers by tag; where there are strips, their offsets and lengths are added.
        strips: the encoded pixels; they are tiles if the tags give tiles a width.
        order: "<" or ">".
        magic: 42; 43 is BigTIFF.
        following: where the next directory stands.
    """
    tags = dict(tags)
    offsets, sizes = (324, 325) if 322 in tags else (273, 279)
    if strips:
        tags |= {offsets: tuple(0 for _ in strips), sizes: tuple(len(strip) for strip in strips)}
    data, offset = b"", 10 + 12 * len(tags) + 4
    lengths = {tag: len(_values(value)) for tag, value in tags.items()}
    aside = {tag: length * _size(tag, tags[tag]) for tag, length in lengths.items()}
    start = offset + sum(size for size in aside.values() if size > 4)
    if strips:
        tags[offsets] = tuple(accumulate((len(strip) for strip in strips[:-1]), initial=start))
    entries = b""
    for tag in sorted(tags):
        values, size = _values(tags[tag]), _size(tag, tags[tag])
        packed = struct.pack(f"{order}{len(values)}{'H' if size == 2 else 'L'}", *values)
        if len(packed) > 4:
            place, data = struct.pack(order + "L", offset + len(data)), data + packed
        else:
            place = packed.ljust(4, b"\0")
        entries += struct.pack(order + "HHL", tag, 3 if size == 2 else 4, len(values)) + place
    header = (b"II" if order == "<" else b"MM") + struct.pack(order + "HLH", magic, 8, len(tags))
    return header + entries + struct.pack(order + "L", following) + data + b"".join(strips)


def _values(value: Values) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def _size(tag: int, value: Values) -> int:
    return 4 if tag in {273, 279, 324, 325} or max(_values(value)) > 65535 else 2


def grey_tiff(width: int, height: int, *strips: bytes, **tags: Values) -> bytes:
    """Return an 8-bit grey TIFF; `tags` are more of them, named `tag_258`."""
    more = {int(name.removeprefix("tag_")): value for name, value in tags.items()}
    return tiff({256: width, 257: height, 258: 8, 259: 1, 262: 1, 277: 1, 278: height, **more}, *strips)


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """Return a WebP file of these chunks."""
    body = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for kind, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_canvas(width: int, height: int) -> bytes:
    """Return a WebP that claims a canvas and holds nothing."""
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return riff((b"VP8X", bytes(4) + sides), (b"ANIM", bytes(6)))


def samples() -> dict[str, bytes]:
    """Return a small whole file of each kind, 24 x 16, by name: its format, then the kind."""
    colour = Image.fromarray(smooth(16, 24))
    grey, palette, ink = colour.convert("L"), colour.quantize(16), colour.convert("CMYK")
    clear = colour.copy()
    clear.putalpha(grey)
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    frames: dict[str, Any] = {"save_all": True, "append_images": [colour.rotate(180)]}
    lines = [line.tobytes() for line in np.asarray(grey)]
    return {
        "JPEG": encoded(colour, "JPEG"),
        "JPEG progressive": encoded(colour, "JPEG", progressive=True),
        "JPEG grey": encoded(grey, "JPEG"),
        "JPEG CMYK": encoded(ink, "JPEG"),
        "JPEG EXIF": encoded(colour, "JPEG", exif=b"Exif\0\0" + exif(6)),
        "JPEG several": encoded(colour, "MPO", **frames),
        "PNG": encoded(colour),
        "PNG palette": encoded(palette, transparency=3),
        "PNG alpha": encoded(clear),
        "PNG 16": encoded(deep),
        "PNG 1": encoded(grey.convert("1")),
        "PNG interlaced": interlaced_png(np.asarray(grey)),
        "PNG frames": encoded(colour, **frames),
        "WEBP": encoded(colour, "WEBP", exif=b"Exif\0\0" + exif(3)),
        "WEBP lossless": encoded(clear, "WEBP", lossless=True),
        "WEBP alpha": encoded(clear, "WEBP"),
        "WEBP frames": encoded(colour, "WEBP", **frames),
        "BMP": encoded(colour, "BMP"),
        "BMP palette": encoded(palette, "BMP"),
        "GIF": encoded(palette, "GIF"),
        "GIF transparent": encoded(palette, "GIF", transparency=2),
        "GIF frames": encoded(palette, "GIF", save_all=True, append_images=[palette.rotate(180)]),
        "TIFF": encoded(colour, "TIFF"),
        "TIFF LZW": encoded(colour, "TIFF", compression="tiff_lzw"),
        "TIFF deflate": encoded(clear, "TIFF", compression="tiff_adobe_deflate"),
        "TIFF JPEG": encoded(colour, "TIFF", compression="jpeg"),
        "TIFF PackBits": encoded(palette, "TIFF", compression="packbits"),
        "TIFF 1": encoded(grey.convert("1"), "TIFF", compression="tiff_lzw"),
        "TIFF CMYK": encoded(ink, "TIFF"),
        "TIFF 16": encoded(deep, "TIFF"),
        "TIFF camera": grey_tiff(24, 16, *(zlib.compress(line) for line in lines), tag_259=8, tag_278=1),
    }
