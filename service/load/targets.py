"""What to ask of a server: its models by its own protocol or by the Open Inference Protocol, as ready-made messages."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import grpc
import numpy as np

from service.client import Client
from service.connection import Connection
from service.errors import SetupError
from service.load import pictures
from service.load.pictures import Shape
from service.load.plan import Framing, Kind
from service.rpc.pb.inference import service_pb2
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb

Protocol = Literal["saccade", "oip"]
DISTINCT = 16
"""Different messages, sent in turn, where pictures are drawn."""
_SECONDS = 3.0
_CLASSIFY = "/saccade.v1.ImageClassifier/Classify"
_INFER = "/inference.GRPCInferenceService"
_TYPES = {
    "UINT8": np.uint8,
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked, whatever the protocol.

    Attributes:
        model: name; empty for the server's default.
        version: empty for the newest.
        images: pictures a message.
        top_k: labels asked for; 0 for the server's own number.
        pictures: folder or file of pictures to send; None draws them.
        encoded: send drawn pictures as PNG files instead of bare pixels.
        size: height and width of drawn pictures; None for the model's.
        stream: send messages on streams.
        seed: of what is drawn.
    """

    model: str = ""
    version: str = ""
    images: int = 1
    top_k: int = 0
    pictures: Path | None = None
    encoded: bool = False
    size: tuple[int, int] | None = None
    stream: bool = False
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a load sends to a target.

    Attributes:
        method: full path.
        requests: messages, sent in turn.
        model: name and version of the model that answers, for people.
        content: what a message holds, for people.
    """

    method: str
    requests: tuple[bytes, ...]
    kind: Kind
    framing: Framing
    model: str
    content: str


def parse(text: str) -> tuple[Protocol, str]:
    """Return the protocol and the address of a target; an address alone is `saccade`.

    Raises:
        SetupError: neither, or every server of a name.
    """
    scheme, found, address = text.rpartition("://")
    if scheme.endswith("dns"):
        raise SetupError(f"target {text!r}: dns:// may be many servers, and a bench is of one; name it as host:port")
    if found and scheme not in {"saccade", "oip"}:
        raise SetupError(f"target {text!r}: {scheme} is not known; use saccade://host:port or oip://host:port")
    if not address.rpartition(":")[2].isdigit():
        raise SetupError(f"target {text!r}: no port; use saccade://host:port or oip://host:port")
    return ("oip" if scheme == "oip" else "saccade"), address


def prepare(protocol: Protocol, connection: Connection, ask: Ask) -> Prepared:
    """Ask the server what its model takes and return messages of that kind.

    Raises:
        SaccadeError: the server is not there, has no such model, or the model takes something else.
    """
    return _saccade(connection, ask) if protocol == "saccade" else _oip(connection, ask)


def _groups(items: Sequence[Any], images: int) -> list[list[Any]]:
    """Return messages' pictures: so many each, all of them used, over and over."""
    count = max(1, -(-len(items) // images))
    return [[items[(first * images + number) % len(items)] for number in range(images)] for first in range(count)]


def _files(ask: Ask, shape: Shape) -> tuple[list[bytes], str]:
    """Return encoded pictures and what they are, for people."""
    if ask.pictures is not None:
        files = pictures.read(ask.pictures)
        return files, f"{len(files)} files of {ask.pictures}"
    drawn = [pictures.png(pictures.draw(shape, seed=ask.seed + number)) for number in range(DISTINCT)]
    return drawn, f"drawn PNG of {shape.width}x{shape.height}"


def _shape(ask: Ask, height: int, width: int, channels: int) -> Shape:
    height, width = ask.size or (height, width)
    return Shape(height, width, channels)


def _saccade(connection: Connection, ask: Ask) -> Prepared:
    with Client(connection=connection, timeout=_SECONDS) as client:
        entry = client.model(ask.model, ask.version)
    shape = _shape(ask, entry.height, entry.width, entry.channels)
    if ask.pictures is not None or ask.encoded:
        files, content = _files(ask, shape)
        images = [pb.Image(encoded=file) for file in files]
    else:
        drawn = [pictures.draw(shape, seed=ask.seed + number) for number in range(DISTINCT)]
        size = {"height": shape.height, "width": shape.width, "channels": shape.channels}
        images = [pb.Image(pixels=pb.Pixels(data=picture.tobytes(), **size)) for picture in drawn]
        content = f"drawn pixels of {shape.width}x{shape.height}x{shape.channels}"
    requests = tuple(
        pb.ClassifyRequest(model=ask.model, version=ask.version, images=group, top_k=ask.top_k).SerializeToString()
        for group in _groups(images, ask.images)
    )
    method = f"{_CLASSIFY}Stream" if ask.stream else _CLASSIFY
    return Prepared(
        method, requests, "stream" if ask.stream else "unary", "saccade", f"{entry.name} {entry.version}", content
    )


def _oip(connection: Connection, ask: Ask) -> Prepared:
    request = service_pb2.ModelMetadataRequest(name=ask.model, version=ask.version)
    metadata = _call(connection, "ModelMetadata", request, service_pb2.ModelMetadataResponse)
    if len(metadata.inputs) != 1:
        names = ", ".join(tensor.name for tensor in metadata.inputs)
        raise SetupError(f"{metadata.name} has {len(metadata.inputs)} inputs ({names}); one is supported")
    if ask.top_k and not metadata.outputs:
        raise SetupError(f"--top-k {ask.top_k}: {metadata.name} lists no output whose labels could be asked for")
    tensor = metadata.inputs[0]
    if ask.pictures is not None or ask.encoded or tensor.datatype == "BYTES":
        files, content = _files(ask, _sides(ask, list(tensor.shape)))
        groups = [
            ("BYTES", [ask.images], b"".join(len(file).to_bytes(4, "little") + file for file in group))
            for group in _groups(files, ask.images)
        ]
    else:
        shape = _filled(ask, metadata.name, list(tensor.shape))
        groups = [(tensor.datatype, shape, _elements(tensor.datatype, shape, ask.seed + n)) for n in range(DISTINCT)]
        content = f"drawn {tensor.datatype} {shape}"
    requests = []
    for datatype, dimensions, data in groups:
        message = service_pb2.ModelInferRequest(model_name=ask.model, model_version=ask.version)
        message.inputs.add(name=tensor.name, datatype=datatype, shape=dimensions)
        message.raw_input_contents.append(data)
        if ask.top_k:
            wanted = message.outputs.add(name=metadata.outputs[0].name)
            wanted.parameters["classification"].int64_param = ask.top_k
        requests.append(message.SerializeToString())
    method = f"{_INFER}/{'ModelStreamInfer' if ask.stream else 'ModelInfer'}"
    newest = max(metadata.versions, key=lambda text: (len(text), text), default="")  # as numbers: 9 before 10
    name = f"{metadata.name} {ask.version or newest}".strip()
    return Prepared(method, tuple(requests), "stream" if ask.stream else "unary", "oip", name, content)


def _filled(ask: Ask, name: str, dimensions: list[int]) -> list[int]:
    """Return a model's dimensions with the batch, and the size where it is free, filled in."""
    if len(dimensions) < 2 or (dimensions[0] > 0 and dimensions[0] != ask.images):
        raise SetupError(f"{name} takes {dimensions}; --images is {ask.images}, and the batch comes first")
    free = [place for place, size in enumerate(dimensions) if size < 0 and place > 0]
    sizes = ask.size or (0, 0)
    if free and (ask.size is None or len(free) > 2):
        raise SetupError(f"{name} takes {dimensions}: say the free sizes by --size HEIGHTxWIDTH")
    filled = dimensions.copy()
    for place, size in zip(free, sizes, strict=False):
        filled[place] = size
    return [ask.images, *filled[1:]]


def _sides(ask: Ask, dimensions: list[int]) -> Shape:
    """Return the size of pictures for a model of these dimensions: channels are the 1 or 3, before or behind."""
    height, width, channels = 224, 224, 3
    if len(dimensions) == 4:
        one, two, three = dimensions[1:]
        height, width, channels = (two, three, one) if one in {1, 3} else (one, two, three)
    return _shape(
        ask, height if height > 0 else 224, width if width > 0 else 224, channels if channels in {1, 3} else 3
    )


def _elements(datatype: str, shape: Sequence[int], seed: int) -> bytes:
    kind = _TYPES.get(datatype)
    if kind is None:
        raise SetupError(f"inputs of {datatype} are not supported; {', '.join(_TYPES)} and BYTES are")
    numbers = np.random.default_rng(seed)
    if np.issubdtype(kind, np.floating):
        return numbers.random(shape, np.float32).astype(kind).tobytes()
    return numbers.integers(0, 127 if kind is np.int8 else 255, shape, endpoint=True).astype(kind).tobytes()


def _call(connection: Connection, method: str, request: Any, reply: Any) -> Any:  # noqa: ANN401 - generated messages
    with connection.open_channel() as channel:
        send = channel.unary_unary(
            f"{_INFER}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=reply.FromString,
        )
        try:
            return send(request, timeout=_SECONDS, metadata=connection.metadata() or None)
        except grpc.RpcError as error:
            where, code = connection.addresses[0], error.code()
            hint = "" if code is grpc.StatusCode.UNAVAILABLE else " (models are named by --model)"
            raise SetupError(f"{where}: {code.name}: {error.details()}{hint}") from None
