"""How the messages of a stream are numbered and told apart.

Protobuf merges what is appended to a message, so a request that is serialised once gets its id and its deadline by a
few bytes at its end.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from grpc import StatusCode

from service.rpc.pb.inference import service_pb2
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb

_STATUSES = {code.value[0]: code.name for code in StatusCode}


@dataclass(frozen=True, slots=True)
class Frame:
    """One stream protocol.

    Attributes:
        number: (request, id, seconds to its deadline or None) to the bytes that are sent.
        read: answer to (id or "" where answers come in order, status or "" where it is an answer, message).
    """

    number: Callable[[bytes, str, float | None], bytes]
    read: Callable[[bytes], tuple[str, str, str]]


def _saccade(request: bytes, number: str, timeout: float | None) -> bytes:
    milliseconds = 0 if timeout is None else max(1, round(timeout * 1000))
    return request + pb.ClassifyRequest(id=number, timeout_ms=milliseconds).SerializeToString()


def _read_saccade(answer: bytes) -> tuple[str, str, str]:
    message = pb.ClassifyStreamResponse.FromString(answer)
    if message.WhichOneof("result") == "error":
        return message.id, _STATUSES.get(message.error.code, "UNKNOWN"), message.error.message
    return message.id, "", ""


def _oip(request: bytes, number: str, timeout: float | None) -> bytes:
    message = service_pb2.ModelInferRequest(id=number)
    if timeout is not None:
        message.parameters["timeout"].int64_param = max(1, round(timeout * 1e6))
    return request + message.SerializeToString()


def _read_oip(answer: bytes) -> tuple[str, str, str]:
    message = service_pb2.ModelStreamInferResponse.FromString(answer)
    if message.error_message:
        status, _, detail = message.error_message.partition(": ")
        known = status in StatusCode.__members__
        return message.infer_response.id, status if known else "UNKNOWN", detail if known else message.error_message
    return message.infer_response.id, "", ""


BY_NAME: Mapping[str, Frame] = {
    "plain": Frame(lambda request, _number, _timeout: request, lambda _answer: ("", "", "")),
    "saccade": Frame(_saccade, _read_saccade),
    "oip": Frame(_oip, _read_oip),
}
