"""What servers answer, as frozen values."""

from dataclasses import dataclass

from ..errors import SaccadeError
from ..rpc.pb.saccade.v1 import classifier_pb2 as pb


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
    """One version that a server knows; the fields are those of the message Model."""

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


def _entry(model: pb.Model) -> ModelEntry:
    fields = {name: getattr(model, name) for name in ModelEntry.__slots__}  # a newer server may send more
    return ModelEntry(**{**fields, "state": pb.State.Name(model.state), "labels": tuple(model.labels)})
