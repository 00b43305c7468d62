"""ModelInfer and ModelStreamInfer: a request checked, run and answered."""

from collections.abc import Callable

from service.errors import InvalidInput
from service.model import WHOLE_ROWS, Answer, Model
from service.repository import Repository
from service.rpc.calls import Call, Make, parse, sooner
from service.rpc.pb.inference import service_pb2 as pb
from service.rpc.statuses import StatusWithDetails
from service.rpc.tensors import classes_wanted, pictures_of, tensors_of, with_classification, with_probabilities

Ready = Callable[[Callable[[], pb.ModelInferResponse]], None]


def begin(repository: Repository, request: pb.ModelInferRequest, call: Call, ready: Ready) -> Callable[[], None]:
    """Begin one request; see service.rpc.calls.Begin.

    Raises:
        SaccadeError: it cannot be begun; see service.errors.
    """
    call.id = request.id
    if request.parameters and "timeout" in request.parameters:
        microseconds = request.parameters["timeout"].int64_param
        if microseconds > 0:
            call.deadline = sooner(call.deadline, microseconds / 1e6)

    def start(model: Model) -> Callable[[], None]:
        asked = _Asked(model, request, call)

        def on_done(answer: "Callable[[], Answer]") -> None:
            ready(lambda: asked.response(answer))

        try:
            return model.start(
                asked.pictures,
                top_k=asked.top_k,
                deadline=call.deadline,
                alone=call.alone,
                later=call.later,
                on_done=on_done,
            )
        except InvalidInput as error:
            raise _of_tensor(error) from None

    return repository.use(request.model_name, request.model_version, start)


class ModelStream:
    """What ModelStreamInfer says on its streams; see service.rpc.streams.

    Args:
        repository: where the models are.
    """

    method = "ModelStreamInfer"

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def begin(self, raw: bytes, call: Call, ready: Callable[[Make], None]) -> Callable[[], None]:
        """Begin one message."""
        request = parse(pb.ModelInferRequest, raw)
        return begin(self._repository, request, call, lambda make: ready(lambda: _final(make())))

    def failure(self, call: Call, status: StatusWithDetails) -> pb.ModelStreamInferResponse:
        """Return the message that says why there is no answer."""
        return pb.ModelStreamInferResponse(
            error_message=f"{status.code.name}: {status.details}", infer_response=pb.ModelInferResponse(id=call.id)
        )


class _Asked:
    """One request for inference, checked for the model that it means: its pictures, and what it wants of them.

    Raises:
        SaccadeError: it cannot be run as it is.
    """

    __slots__ = ("id", "model", "output", "pictures", "top_k")

    def __init__(self, model: Model, request: pb.ModelInferRequest, call: Call) -> None:
        self.id = request.id
        self.model = model
        call.model, call.version = model.facts.name, model.facts.version
        taken, self.output = tensors_of(model)
        self.top_k = classes_wanted(request, self.output) or WHOLE_ROWS
        self.pictures = pictures_of(request, taken, model.queue_size)

    def response(self, answer: Callable[[], Answer]) -> pb.ModelInferResponse:
        """Return the response of what `answer` returns; what it raises of a picture names the tensor."""
        try:
            given = answer()
        except InvalidInput as error:
            raise _of_tensor(error) from None
        if given.probabilities is None:
            return with_classification(self.model.facts, self.id, self.output, given.classifications)
        return with_probabilities(self.model.facts, self.id, self.output, given.probabilities)


def _final(response: pb.ModelInferResponse) -> pb.ModelStreamInferResponse:
    """Return a response as the one and last answer to its request."""
    response.parameters["triton_final_response"].bool_param = True
    return pb.ModelStreamInferResponse(infer_response=response)


def _of_tensor(error: InvalidInput) -> InvalidInput:
    """Return the error of a picture as one of the tensor that holds it."""
    return InvalidInput(error.field.replace("images", "inputs[0]", 1), error.reason)
