"""Pictures and choices to the request that asks for them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import InvalidInput
from ..rpc.pb.saccade.v1 import classifier_pb2 as pb

Picture: TypeAlias = str | Path | bytes | npt.NDArray[np.uint8]
"""A file, its bytes, or decoded pixels: uint8 [height, width] or [height, width, 1 or 3]."""

_MOST = 2**32 - 1
"""Of what the message can say."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What is asked for: model (empty: the default), version (empty: the newest), categories a picture (0: 5).

    Raises:
        InvalidInput: the number of categories cannot be.
    """

    model: str = ""
    version: str = ""
    top_k: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.top_k <= _MOST:
            raise InvalidInput("top_k", f"is {self.top_k}; it must be from 0, which means 5, to {_MOST:,}")

    def request(self, pictures: Iterable[Picture | Sequence[Picture]]) -> pb.ClassifyRequest:
        """Return the request for these pictures; a list or tuple among them stands for what it holds.

        Raises:
            InvalidInput: a file cannot be read, or an array is not what it must be; names `images[N]`.
        """
        flat: list[Any] = []  # whatever it is, what is none is named
        for item in pictures:
            flat += item if isinstance(item, list | tuple) else [item]
        images = [_image(number, picture) for number, picture in enumerate(flat)]
        return pb.ClassifyRequest(model=self.model, version=self.version, images=images, top_k=self.top_k)


def reads_files(pictures: Iterable[Picture | Sequence[Picture]]) -> bool:
    """Return whether their request may take a while to make, because files are read for it."""
    return any(isinstance(picture, str | Path | list | tuple) for picture in pictures)


def serialized(request: pb.ClassifyRequest, limit: int) -> bytes:
    """Return the bytes of a request.

    Raises:
        InvalidInput: there are more than `limit`, which servers refuse, so that they are not sent in vain.
    """
    raw = request.SerializeToString()
    if len(raw) > limit:
        raise InvalidInput(
            "request",
            f"has {len(raw):,} bytes; the limit is {limit:,} (max_message_mb here, --max-message-mb there). "
            "Send fewer or smaller pictures",
        )
    return raw


def taken(picture: Any, field: str) -> bytes | npt.NDArray[np.uint8]:  # noqa: ANN401 - whatever it is
    """Return the bytes of a picture's file, or its pixels, uint8 [height, width] or [height, width, 1 or 3].

    Raises:
        InvalidInput: it is no picture, or its file cannot be read; names the field.
    """
    if isinstance(picture, str | Path):
        try:
            return Path(picture).read_bytes()
        except OSError as error:
            raise InvalidInput(field, f"{picture} cannot be read: {error.strerror}") from None
        except ValueError as error:  # a NUL in the path
            raise InvalidInput(field, f"{picture!r} cannot be read: {error}") from None
    if isinstance(picture, bytes):
        return picture
    if not isinstance(picture, np.ndarray):
        raise InvalidInput(field, f"is a {type(picture).__name__}; give a path, bytes or a uint8 array")
    shape = picture.shape
    if picture.dtype != np.uint8 or len(shape) not in {2, 3} or 0 in shape or (*shape, 1)[2] not in {1, 3}:
        raise InvalidInput(
            field,
            f"is an array of {picture.dtype} {shape}; it must be uint8 [height, width, 1 or 3], "
            "a list of such arrays for several pictures",
        )
    return picture


def _image(number: int, picture: Any) -> pb.Image:  # noqa: ANN401 - see the caller
    given = taken(picture, f"images[{number}]")
    if isinstance(given, bytes):
        return pb.Image(encoded=given)
    height, width, channels = (*given.shape, 1)[:3]
    return pb.Image(pixels=pb.Pixels(height=height, width=width, channels=channels, data=given.tobytes()))
