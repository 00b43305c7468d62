"""saccade.v1.ImageClassifier: protobuf in, Python through, protobuf out; no decisions."""

from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import TypeAlias
from weakref import WeakKeyDictionary

from service import image
from service.errors import InvalidInput
from service.model import Answer, Model, Picture
from service.repository import Repository
from service.rpc.answers import Answers
from service.rpc.calls import Call, Calls, Handler, Make, parse, sooner
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb
from service.rpc.statuses import StatusWithDetails
from service.versions import State, Version

SERVICE = pb.DESCRIPTOR.services_by_name["ImageClassifier"].full_name

_STATES = {
    State.LOADING: pb.LOADING,
    State.READY: pb.READY,
    State.FAILED: pb.FAILED,
    State.DRAINING: pb.DRAINING,
}


Fill: TypeAlias = Callable[[pb.ClassifyResponse], None]
"""Fills in an empty answer, or raises why there is none."""


class Classifier:
    """The methods of the service.

    Args:
        repository: where the models are.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._answers: WeakKeyDictionary[Model, Answers] = WeakKeyDictionary()

    def classify(
        self, request: pb.ClassifyRequest, call: Call, ready: Callable[[Callable[[], pb.ClassifyResponse]], None]
    ) -> Callable[[], None]:
        """Begin Classify; see service.rpc.calls.Begin."""

        def on_done(fill: Fill) -> None:
            ready(partial(_filled, fill))

        return self.begin(request, call, on_done)

    def begin(self, request: pb.ClassifyRequest, call: Call, on_done: Callable[[Fill], None]) -> Callable[[], None]:
        """Begin Classify, or one message of ClassifyStream; `on_done` gets what fills in the answer."""
        call.id = request.id

        # Quoted types: those of an inner function are evaluated at each call, 0.5 us each.
        def start(model: Model) -> "Callable[[], None]":
            call.model, call.version = model.facts.name, model.facts.version

            def answered(answer: "Callable[[], Answer]") -> None:
                on_done(lambda message: self._answers_of(model).write(answer(), request.id, message))

            return model.start(
                pictures_of(request, model.queue_size),
                top_k=request.top_k,
                deadline=call.deadline,
                alone=call.alone,
                later=call.later,
                on_done=answered,
            )

        return self._repository.use(request.model, request.version, start)

    def _answers_of(self, model: Model) -> Answers:
        """Return what writes a model's answers; gone with the model."""
        found = self._answers.get(model)
        if found is None:
            found = self._answers[model] = Answers(model.facts, model.manifest.labels)
        return found

    def list_models(self, _: pb.ListModelsRequest, __: Call) -> pb.ListModelsResponse:
        """Answer ListModels."""
        default = self._repository.default()
        return pb.ListModelsResponse(
            models=[
                _model(entry, default=default is not None and entry.model is default)
                for entry in self._repository.versions()
            ]
        )

    def handlers(self, calls: Calls, control: Executor) -> dict[str, Handler]:
        """Return the gRPC handler of each unary method by its name."""
        return {
            "Classify": calls.unary(self.classify, pb.ClassifyRequest, "Classify"),
            "ListModels": calls.blocking(self.list_models, pb.ListModelsRequest, "ListModels", control),
        }


class ClassifyStream:
    """What ClassifyStream says on its streams; see service.rpc.streams.

    Args:
        classifier: begins each message.
    """

    method = "ClassifyStream"

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier

    def begin(self, raw: bytes, call: Call, ready: Callable[[Make], None]) -> Callable[[], None]:
        """Begin one message."""
        request = parse(pb.ClassifyRequest, raw)
        if request.timeout_ms:
            call.deadline = sooner(call.deadline, request.timeout_ms / 1000)

        def on_done(fill: Fill) -> None:
            ready(partial(_filled_message, request.id, fill))

        return self._classifier.begin(request, call, on_done)

    def failure(self, call: Call, status: StatusWithDetails) -> pb.ClassifyStreamResponse:
        """Return the message that says why there is no answer."""
        return pb.ClassifyStreamResponse(id=call.id, error=status.message)


def _filled(fill: Fill) -> pb.ClassifyResponse:
    message = pb.ClassifyResponse()
    fill(message)
    return message


def _filled_message(request_id: str, fill: Fill) -> pb.ClassifyStreamResponse:
    """Return a stream's message; filled in place, since protobuf would copy a response that is put into it."""
    message = pb.ClassifyStreamResponse(id=request_id)
    fill(message.response)
    return message


def pictures_of(request: pb.ClassifyRequest, most: int) -> list[Picture]:
    """Return the pictures of a request.

    Raises:
        InvalidInput: one of them holds nothing, or there are more than `most`.
    """
    if len(request.images) > most:
        raise InvalidInput("images", f"{len(request.images):,} pictures in one request; the limit is {most:,}")
    return [_picture(number, picture) for number, picture in enumerate(request.images)]


def _picture(number: int, picture: pb.Image) -> Picture:
    if picture.HasField("pixels"):  # a third faster than to ask which of them it has
        pixels = picture.pixels
        return image.Pixels(pixels.height, pixels.width, pixels.channels, pixels.data)
    if picture.HasField("encoded"):
        return picture.encoded
    raise InvalidInput(f"images[{number}]", "holds neither `encoded` nor `pixels`")


def _model(entry: Version, *, default: bool) -> pb.Model:
    message = pb.Model(
        name=entry.name, version=str(entry.version), state=_STATES[entry.state], reason=entry.notice, default=default
    )
    if entry.model is None:
        return message
    facts, manifest = entry.model.facts, entry.model.manifest
    message.MergeFrom(
        pb.Model(
            verified=facts.verified,
            architecture=manifest.architecture,
            provider=facts.provider,
            precision=facts.precision,
            height=manifest.preprocessing.height,
            width=manifest.preprocessing.width,
            channels=manifest.preprocessing.channels,
            labels=manifest.labels,
            accuracy=manifest.accuracy or 0.0,
            data=manifest.data,
            sha256=facts.sha256,
            max_batch_size=entry.model.max_batch_size,
            fit=manifest.preprocessing.fit,
            crop_fraction=manifest.preprocessing.crop_fraction,
            interpolation=manifest.preprocessing.interpolation,
        )
    )
    return message
