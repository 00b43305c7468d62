"""Pictures in, pixels out: the one preprocessing function, for training and serving; the only importer of Pillow."""

import ctypes
import io
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, _imaging, features
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from . import formats
from .budget import PixelBudget
from .errors import InvalidInput, SaccadeError
from .manifest import Preprocessing

Array: TypeAlias = npt.NDArray[np.uint8]
Box: TypeAlias = tuple[float, float, float, float]
"""Left, upper, right, lower."""

DECODERS: dict[str, type[ImageFile]] = {
    name: decoder
    for name, decoder, feature in (
        ("JPEG", JpegImageFile, "jpg"),
        ("PNG", PngImageFile, "zlib"),
        ("WEBP", WebPImageFile, "webp"),
        ("GIF", GifImageFile, None),
        ("BMP", BmpImageFile, None),
        ("TIFF", TiffImageFile, None),
    )
    if feature is None or features.check(feature)
}
"""The decoders that may touch a caller's bytes, as far as this Pillow has them; no other one is ever asked."""

Image.MAX_IMAGE_PIXELS = None  # its limit only warns; ours refuses, from the header, before a pixel is decoded

_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "I", "I;16", "I;16B"}
"""Pillow's kinds of pixels that are read; an "I" is a PNG's 16 bits, since formats refuses what is wider."""
_INTERPOLATION = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS, _FROM_THE_RIGHT, _FROM_BELOW = (
    {_UPRIGHT[orientation] for orientation in orientations}
    for orientations in ((5, 6, 7, 8), (2, 3, 7, 8), (3, 4, 6, 7))
)


class Pixels(NamedTuple):
    """Raw pixels as a caller sends them: uint8, row by row, channels side by side."""

    height: int
    width: int
    channels: int
    data: bytes


def _reserved(budget: PixelBudget | None, pixels: int, deadline: float | None) -> AbstractContextManager[None]:
    return budget.reserve(pixels, deadline) if budget else nullcontext()


def decode(
    encoded: bytes,
    spec: Preprocessing,
    *,
    max_pixels: int,
    budget: PixelBudget | None = None,
    deadline: float | None = None,
) -> Array:
    """Return the model's input, uint8 [height, width, channels], of an encoded picture.

    Args:
        encoded: a file of one of formats.FORMATS; of several pictures in it the first.
        spec: what the model wants.
        max_pixels: the most pixels that it may have, checked before it is decoded.
        budget: where its pixels are reserved while it is decoded; None for no bound.
        deadline: on `time.monotonic`, for the wait for the budget.

    Raises:
        InvalidInput: it is no picture that can be decoded, or it has too many pixels.
        DeadlineExceeded: see PixelBudget.reserve.
    """
    if not encoded:
        raise InvalidInput("image", "is empty; send the bytes of a picture file")
    source = formats.read(encoded, max_pixels=max_pixels)
    try:
        with _opened(source) as picture:
            formats.check_size(picture.width, picture.height, max_pixels)
            with _reserved(budget, max(picture.width * picture.height, source.room), deadline):
                return fit(picture, spec, turn=_UPRIGHT.get(source.orientation))
    except SaccadeError:
        raise
    except Exception:  # noqa: BLE001 - decoders raise whatever they like on hostile bytes
        raise formats.broken(encoded) from None


def from_pixels(
    pixels: Pixels,
    spec: Preprocessing,
    *,
    max_pixels: int,
    budget: PixelBudget | None = None,
    deadline: float | None = None,
) -> Array:
    """Return the model's input, uint8 [height, width, channels], of raw pixels.

    Raises:
        InvalidInput: the sizes and the data do not agree, or there are more than `max_pixels`.
        DeadlineExceeded: see PixelBudget.reserve.
    """
    height, width, channels, data = pixels
    if channels not in {1, 3}:
        raise InvalidInput("image.pixels.channels", f"is {channels}; it must be 1 or 3")
    if not height or not width:
        raise InvalidInput("image.pixels", f"is {height} x {width}; both must be at least 1")
    formats.check_size(width, height, max_pixels)
    if len(data) != height * width * channels:
        raise InvalidInput(
            "image.pixels.data",
            f"has {len(data):,} bytes; {height} x {width} x {channels} pixels need {height * width * channels:,}",
        )
    array = np.frombuffer(data, np.uint8).reshape(height, width, channels)
    if array.shape == (spec.height, spec.width, spec.channels):
        return array
    with _reserved(budget, height * width, deadline):
        return fit(_picture(array), spec)


def from_array(array: Array, spec: Preprocessing) -> Array:
    """Return the model's input of a decoded picture, uint8 [height, width] or [height, width, 1 or 3]."""
    return fit(_picture(array), spec)


def read(encoded: bytes, *, max_pixels: int) -> Array:
    """Return a picture at its own size, upright and opaque: uint8 [height, width, 3], or [height, width] if it is grey.

    Raises:
        InvalidInput: it is no picture that can be decoded, or it has more than `max_pixels`.
    """
    source = formats.read(encoded, max_pixels=max_pixels)
    try:
        with _opened(source) as opened:
            formats.check_size(opened.width, opened.height, max_pixels)
            picture = _opaque(opened)
            picture = picture.convert("L" if picture.mode in {"1", "L"} else "RGB")
            turn = _UPRIGHT.get(source.orientation)
            return np.array(picture if turn is None else picture.transpose(turn))
    except SaccadeError:
        raise
    except Exception:  # noqa: BLE001 - decoders raise whatever they like on hostile bytes
        raise formats.broken(encoded) from None


def encode_png(array: Array) -> bytes:
    """Return the PNG file of a picture, uint8 [height, width] or [height, width, 1 or 3]."""
    file = io.BytesIO()
    _picture(array).save(file, format="PNG")
    return file.getvalue()


def encode_jpeg(array: Array, *, quality: int) -> bytes:
    """Return the JPEG file of a picture, uint8 [height, width] or [height, width, 1 or 3], its colours at full size."""
    file = io.BytesIO()
    _picture(array).save(file, format="JPEG", quality=quality, subsampling=0)
    return file.getvalue()


def fit(picture: Image.Image, spec: Preprocessing, *, turn: Image.Transpose | None = None) -> Array:
    """Return the picture as the model wants it: its colours, its part, its size; uint8 [height, width, channels].

    Args:
        picture: as it is stored.
        spec: what the model wants.
        turn: what makes it upright; None where it is.
    """
    mode = "L" if spec.channels == 1 else "RGB"
    picture = _opaque(picture)
    if picture.mode != mode:
        picture = picture.convert(mode)
    if turn is not None and spec.interpolation != "bilinear":
        # The others overshoot, so that it matters by 2 or 3 of 255 which side is resized first.
        picture, turn = picture.transpose(turn), None
    upright, size = picture.size, (spec.width, spec.height)
    if turn in _SIDEWAYS:
        upright, size = upright[::-1], size[::-1]
    box = _as_stored(_box(*upright, spec), *picture.size, turn)
    if picture.size != size or box != (0, 0, *size):
        # Only what the crop keeps is resized: 1990 us instead of 2548 for a photograph, at most 1 of 255 apart.
        picture = picture.resize(size, _INTERPOLATION[spec.interpolation], box=box)
    if turn is not None:
        # Only now, when it is small: turning 12 megapixels takes 60 ms, resizing them 45.
        picture = picture.transpose(turn)
    return np.asarray(picture).reshape(spec.height, spec.width, spec.channels)


def scaled(width: int, height: int, spec: Preprocessing) -> tuple[int, int]:
    """Return the width and height to which a picture is resized, of which the model's input is the middle."""
    if spec.fit == "stretch":
        return spec.width, spec.height
    wide, high = round(spec.width / spec.crop_fraction), round(spec.height / spec.crop_fraction)
    if wide * height > high * width:
        return wide, wide * height // width
    return high * width // height, high


def _box(width: int, height: int, spec: Preprocessing) -> Box:
    """Return the part of the picture that is kept.

    As if the whole picture were resized and its middle cut out, both in whole pixels, which is what torchvision does.
    """
    if spec.fit == "stretch":
        return 0, 0, width, height
    wide, high = scaled(width, height, spec)
    left, upper = round((wide - spec.width) / 2), round((high - spec.height) / 2)
    right, lower = left + spec.width, upper + spec.height
    return left * width / wide, upper * height / high, right * width / wide, lower * height / high


def _as_stored(box: Box, width: int, height: int, turn: Image.Transpose | None) -> Box:
    """Return where a part of the upright picture lies in the stored one."""
    left, upper, right, lower = box
    if turn in _SIDEWAYS:
        left, upper, right, lower = upper, left, lower, right
    if turn in _FROM_THE_RIGHT:
        left, right = width - right, width - left
    if turn in _FROM_BELOW:
        upper, lower = height - lower, height - upper
    return left, upper, right, lower


class _File(io.BytesIO):
    """A file that ends after so many reads: 60 MB of empty comments in a GIF would hold the process for 8 s."""

    _reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self._reads += 1
        return super().read(size) if self._reads <= 4 * formats.MAX_PARTS else b""


def _opened(source: formats.Source) -> ImageFile:
    """Return the picture of which no more than the header was read.

    Raises:
        InvalidInput: this Pillow lacks the decoder, or it is of a kind that is not read.
    """
    decoder = DECODERS.get(source.format)
    picture = decoder(_File(source.data)) if decoder else None
    if picture is None or (not _QUIET_LIBTIFF and picture.tile and picture.tile[0][0] == "libtiff"):
        compressed = " compressed" if picture else ""
        raise InvalidInput("image", f"is a{compressed} {source.format}, which this build cannot decode; send another")
    if picture.mode not in _MODES:
        raise InvalidInput("image", f"is a {source.format} of a kind that is not supported; send 8 bits, RGB or grey")
    return picture


def _opaque(picture: Image.Image) -> Image.Image:
    """Return the picture on white and in 8 bits: without transparency, or a frame that does not cover it."""
    whole = (0, 0, *picture.size)
    covered = picture.tile[0][1] if isinstance(picture, GifImageFile) else whole
    if picture.mode.startswith("I"):
        return _eight_bits(picture)
    if covered == whole and picture.mode not in {"RGBA", "LA", "PA"} and "transparency" not in picture.info:
        return picture
    picture = picture.convert("RGBA")
    white = Image.new("RGB", picture.size, "white")
    part = picture if covered == whole else picture.crop(covered)
    white.paste(part, covered, part)
    return white


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Return a picture of 16 bits in 8: Pillow's own conversion clips at 255."""
    deep = np.asarray(picture).astype(np.uint32)
    transparent = deep == picture.info["transparency"] if "transparency" in picture.info else None
    # deep / 257, rounded, for all 65,536 of them, in place: 10 bytes a pixel in all.
    deep *= 255
    deep += 32895
    deep >>= 16
    grey = deep.astype(np.uint8)
    if transparent is not None:
        grey[transparent] = 255
    return Image.fromarray(grey)


def _quiet_libtiff() -> bool:
    """Return whether compressed TIFF can be decoded without libtiff writing to standard error what it thinks of a file.

    Pillow turns its warnings off and leaves its errors on.
    """
    try:
        set_handler = ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler
    except (AttributeError, OSError):
        return False
    set_handler(None)
    return True


_QUIET_LIBTIFF = _quiet_libtiff()


def _picture(array: Array) -> Image.Image:
    return Image.fromarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array)
