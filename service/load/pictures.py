"""What pictures a load sends: those of a folder, or drawn ones as PNG or as bare pixels."""

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from service.errors import SetupError

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
"""What a folder's pictures end in."""
_MOST = 64
"""Pictures held at once; more of a folder are left out, so that messages stay in memory."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Size of a picture."""

    height: int
    width: int
    channels: int


def read(folder: Path) -> list[bytes]:
    """Return the picture files of a folder, or one file.

    Raises:
        SetupError: there are none, or one cannot be read.
    """
    if folder.is_file():
        return [_bytes(folder)]
    files = sorted(entry for entry in folder.rglob("*") if entry.suffix.lower() in SUFFIXES and entry.is_file())
    if not files:
        raise SetupError(f"{folder} has no pictures; they end in {', '.join(sorted(SUFFIXES))}")
    return [_bytes(file) for file in files[:_MOST]]


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SetupError(f"--pictures {file}: {error.strerror}") from None


def draw(shape: Shape, *, seed: int) -> npt.NDArray[np.uint8]:
    """Draw a picture: soft waves and some noise, so that it compresses about as well as a photograph."""
    numbers = np.random.default_rng(seed)
    rows, columns = np.mgrid[0 : shape.height, 0 : shape.width] / max(shape.height, shape.width)
    layers = []
    for _ in range(shape.channels):
        across, down, phase = numbers.uniform(2, 12, 3)
        layers.append(128 + 90 * np.sin(across * rows + down * columns + phase))
    picture = np.stack(layers, axis=-1) + numbers.normal(0, 4, (shape.height, shape.width, shape.channels))
    return picture.clip(0, 255).astype(np.uint8)


def png(picture: npt.NDArray[np.uint8]) -> bytes:
    """Return a picture, uint8 [height, width, 1 or 3], as a PNG file."""
    height, width, channels = picture.shape
    lines = b"".join(b"\0" + line.tobytes() for line in picture)
    head = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(lines, 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )
