"""Pictures made as small as a model takes them, before they are sent, by the server's own functions."""

import numpy as np
import numpy.typing as npt

from .. import image
from ..errors import InvalidInput
from ..manifest import Preprocessing
from .pictures import Picture, taken

MAX_PIXELS = 50_000_000
"""Of one picture, as servers have it unless told otherwise: a small file may hold gigabytes."""
BEST_QUALITY = 95
"""Beyond it a JPEG only grows."""
_LONGEST = 4096
"""Of a side of what is made, as of models' inputs."""


def fitted(picture: Picture, spec: Preprocessing) -> npt.NDArray[np.uint8]:
    """Return the model's input, uint8 [height, width, channels], of a picture.

    Raises:
        InvalidInput: it is no picture that can be decoded, or it has too many pixels.
    """
    given = taken(picture, "picture")
    if isinstance(given, bytes):
        return image.decode(given, spec, max_pixels=MAX_PIXELS)
    return _resized(given, spec)


def shrunk(picture: Picture, spec: Preprocessing, *, quality: int) -> bytes:
    """Return a JPEG file of a picture, as large as what the input is cut from; its own file where that is no larger.

    Raises:
        InvalidInput: it is no picture that can be decoded, or it has too many pixels; or the quality is none.
    """
    if not 1 <= quality <= BEST_QUALITY:
        raise InvalidInput("quality", f"is {quality}; it must be from 1 to {BEST_QUALITY}")
    given = taken(picture, "picture")
    pixels = image.read(given, max_pixels=MAX_PIXELS) if isinstance(given, bytes) else given
    height, width = pixels.shape[:2]
    wide, high = image.scaled(width, height, spec)
    if wide * high < width * height and max(wide, high) <= _LONGEST:
        whole = spec.model_copy(update={"width": wide, "height": high, "fit": "stretch"})
        return image.encode_jpeg(_resized(pixels, whole), quality=quality)
    return given if isinstance(given, bytes) else image.encode_jpeg(pixels, quality=quality)


def _resized(pixels: npt.NDArray[np.uint8], spec: Preprocessing) -> npt.NDArray[np.uint8]:
    height, width, channels = (*pixels.shape, 1)[:3]
    return image.from_pixels(image.Pixels(height, width, channels, pixels.tobytes()), spec, max_pixels=MAX_PIXELS)
