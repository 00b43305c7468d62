"""What servers answer, as frozen values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import SaccadeError, UnknownModel, Unsupported
from ..rpc.pb.saccade.v1 import classifier_pb2 as pb
from .pictures import Picture

if TYPE_CHECKING:
    from ..manifest import Preprocessing


@dataclass(frozen=True, slots=True)
class Category:
    """One class and its probability, from 0 to 1."""

    index: int
    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What one call gives: the model that answered, and for each picture its categories, the most probable first.

    The times are the server's, in milliseconds; `batch_size` counts the pictures of the last batch, other callers' too.
    """

    model: str
    version: str
    classifications: tuple[tuple[Category, ...], ...]
    decode_ms: float
    queue_ms: float
    inference_ms: float
    batch_size: int


@dataclass(frozen=True, slots=True)
class Streamed:
    """What one item of a stream gave: an answer or an error.

    Attributes:
        index: position of the item in the iterable, from 0.
        answer: None where there is an error.
        error: why there is no answer.
    """

    index: int
    answer: Answer | None = None
    error: SaccadeError | None = None

    def result(self) -> Answer:
        """Return the answer, or raise the error."""
        if self.answer is None:
            raise self.error or SaccadeError("neither answer nor error")
        return self.answer


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One version that a server knows; the fields are those of the message Model.

    `fitted` and `shrunk` make pictures as small as it takes them before they are sent.
    """

    name: str
    version: str
    state: str
    reason: str
    default: bool
    verified: bool
    architecture: str
    provider: str
    precision: str
    height: int
    width: int
    channels: int
    labels: tuple[str, ...]
    accuracy: float
    data: str
    sha256: str
    max_batch_size: int
    fit: str
    crop_fraction: float
    interpolation: str

    def fitted(self, picture: Picture) -> npt.NDArray[np.uint8]:
        """Return what this version takes of a picture, uint8 [height, width, channels], made as its server makes it.

        Sent instead of the picture, it spares the server the decoding, and the answer stays the same to the last bit
        where both sides have the same Pillow.

        Args:
            picture: a file, its bytes or an array, of at most 50 million pixels.

        Raises:
            InvalidInput: it is no picture, or too large.
            Unsupported: the server does not say how it makes its input; it is older than this client.
        """
        from .fitting import fitted

        return fitted(picture, self._input())

    def shrunk(self, picture: Picture, *, quality: int = 90) -> bytes:
        """Return a JPEG file of the whole picture, no larger than this version looks at.

        Sent instead of the picture, it takes few bytes and little decoding. The answer may differ a little: a JPEG
        loses something each time it is written. A file that is no larger comes back as it is.

        Args:
            picture: a file, its bytes or an array, of at most 50 million pixels.
            quality: of the JPEG, 1 to 95.

        Raises:
            InvalidInput: it is no picture, or too large, or the quality is none.
            Unsupported: the server does not say how it makes its input; it is older than this client.
        """
        from .fitting import shrunk

        return shrunk(picture, self._input(), quality=quality)

    def _input(self) -> "Preprocessing":
        from ..manifest import (
            Preprocessing,  # with pydantic, and Pillow above, which the rest of the client does without
        )

        if not self.fit:
            raise Unsupported("the server is older than this client and does not say how it resizes: send the picture")
        names = ("height", "width", "channels", "fit", "crop_fraction", "interpolation")
        fields: dict[str, Any] = {name: getattr(self, name) for name in names}
        return Preprocessing(**fields)


def answer_of(reply: pb.ClassifyResponse) -> Answer:
    """Return the value of a reply."""
    timing = reply.timing
    return Answer(
        model=reply.model,
        version=reply.version,
        classifications=tuple(
            tuple(Category(best.index, best.label, best.probability) for best in row.categories)
            for row in reply.classifications
        ),
        decode_ms=timing.decode_ms,
        queue_ms=timing.queue_ms,
        inference_ms=timing.inference_ms,
        batch_size=timing.batch_size,
    )


def entries_of(reply: pb.ListModelsResponse) -> list[ModelEntry]:
    """Return the values of a reply."""
    return [_entry(model) for model in reply.models]


def serving(entries: Sequence[ModelEntry], name: str, version: str) -> ModelEntry:
    """Return the one of a server's versions that answers a request for this model and version.

    Raises:
        UnknownModel: none does; names those that would.
    """
    wanted = name or next((entry.name for entry in entries if entry.default), "")
    ready = [entry for entry in entries if entry.state == "READY"]
    for entry in ready:  # the highest version first
        if entry.name == wanted and version in {"", entry.version}:
            return entry
    there = ", ".join(f"{entry.name} {entry.version}" for entry in ready) or "none"
    raise UnknownModel(f"model {wanted or '(no default)'} {version or '(newest)'} is not served; ready: {there}")


def _entry(model: pb.Model) -> ModelEntry:
    fields = {name: getattr(model, name) for name in ModelEntry.__slots__}  # a newer server may send more
    return ModelEntry(**{**fields, "state": pb.State.Name(model.state), "labels": tuple(model.labels)})
