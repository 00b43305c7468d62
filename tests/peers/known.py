"""The servers that are compared: how each is started and what a call looks like on its wire."""

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from service.load.plan import Kind
from service.rpc.pb.inference import service_pb2
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb

SERVERS = Path(__file__).parent / "servers"
MOST, DELAY_MS = 32, 1
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server runs.

    Attributes:
        environment: virtual environment that it is installed in.
        folder: of its own, empty at first.
        model: ONNX file, at `ROOT/served/1/model.onnx`.
        shape: height, width and channels of its pictures.
        ports: five free ones; the first is for calls.
    """

    environment: Path
    folder: Path
    model: Path
    shape: tuple[int, int, int]
    ports: tuple[int, ...]

    @property
    def python(self) -> str:
        """The environment's interpreter."""
        return str(self.environment / "bin" / "python")

    @property
    def address(self) -> str:
        """Where calls go."""
        return f"{LOOPBACK}:{self.ports[0]}"


@dataclass(frozen=True, slots=True)
class Peer:
    """One kind of server.

    Attributes:
        name: as it is called.
        package: the distribution that must be installed.
        wire: what travels, for people.
        start: writes what the server needs into its folder and returns its command line.
        method: full path of the gRPC method, or of the HTTP request.
        request: pixels and shape to a message.
        label: answer to the label in it.
        content_type: of an HTTP request.
        variables: of the server's environment.
    """

    name: str
    package: str
    wire: str
    start: Callable[[Place], list[str]]
    kind: Kind
    method: str
    request: Callable[[bytes, tuple[int, int, int]], bytes]
    label: Callable[[bytes], str]
    content_type: str = "application/octet-stream"
    variables: Mapping[str, str] = field(default_factory=dict)


def _saccade(place: Place) -> list[str]:
    command = [sys.executable, "-m", "service.cli", "serve", "--repository", str(place.model.parents[2])]
    command += ["--host", LOOPBACK, "--grpc-port", str(place.ports[0]), "--metrics-port", str(place.ports[1])]
    # The callers keep to the last core. The kernel moves a peer's threads away from it; ours stay on one, so say which.
    return [*command, "--pin", str(min(os.sched_getaffinity(0))), "--drain-delay", "0"]


def _classify_request(pixels: bytes, shape: tuple[int, int, int]) -> bytes:
    height, width, channels = shape
    picture = pb.Image(pixels=pb.Pixels(height=height, width=width, channels=channels, data=pixels))
    return pb.ClassifyRequest(images=[picture], top_k=1).SerializeToString()


def _classify_label(answer: bytes) -> str:
    return str(pb.ClassifyResponse.FromString(answer).classifications[0].categories[0].label)


def _mosec(place: Place) -> list[str]:
    command = [place.python, str(SERVERS / "serve_mosec.py"), "--address", LOOPBACK, "--port", str(place.ports[0])]
    return [*command, "--path", str(place.folder / "sockets"), "--timeout", "60000", "--log-level", "warning"]


def _litserve(place: Place) -> list[str]:
    return [place.python, str(SERVERS / "serve_litserve.py")]


def _bentoml(place: Place) -> list[str]:
    command = [place.python, "-m", "bentoml", "serve", "serve_bentoml:Label", "--working-dir", str(SERVERS)]
    return [*command, "--host", LOOPBACK, "--port", str(place.ports[0])]


def _mlserver(place: Place) -> list[str]:
    ports = dict(zip(("grpc_port", "http_port", "metrics_port"), place.ports, strict=False))
    # One process: what it hands to a second one costs it more than the model does.
    settings = {"host": LOOPBACK, **ports, "parallel_workers": 0, "debug": False}
    batching = {"max_batch_size": MOST, "max_batch_time": DELAY_MS / 1000}
    model = {"name": "label", "implementation": "serve_mlserver.Label", **batching}
    (place.folder / "settings.json").write_text(json.dumps(settings))
    (place.folder / "model-settings.json").write_text(json.dumps(model))
    return [str(place.environment / "bin" / "mlserver"), "start", str(place.folder)]


def _torchserve(place: Place) -> list[str]:
    java = shutil.which("java")
    if java is None:
        raise FileNotFoundError("TorchServe needs Java, and there is no `java`")
    batching = f"batchSize: {MOST}\nmaxBatchDelay: {DELAY_MS}\nminWorkers: 1\nmaxWorkers: 1\n"
    (place.folder / "model.yaml").write_text(batching)
    archive = [str(place.environment / "bin" / "torch-model-archiver"), "--model-name", "label", "--version", "1"]
    archive += ["--handler", str(SERVERS / "serve_torchserve.py"), "--config-file", "model.yaml"]
    archive += ["--extra-files", str(SERVERS / "classifier.py"), "--export-path", "."]
    subprocess.run(archive, cwd=place.folder, check=True, capture_output=True)
    grpc, management, inference, metrics, grpc_management = place.ports
    (place.folder / "config.properties").write_text(
        f"inference_address=http://{LOOPBACK}:{inference}\nmanagement_address=http://{LOOPBACK}:{management}\n"
        f"metrics_address=http://{LOOPBACK}:{metrics}\ngrpc_inference_address={LOOPBACK}\ngrpc_inference_port={grpc}\n"
        f"grpc_management_address={LOOPBACK}\ngrpc_management_port={grpc_management}\n"
        "disable_token_authorization=true\ndisable_system_metrics=true\n"
    )
    command = [str(place.environment / "bin" / "torchserve"), "--start", "--foreground", "--disable-token-auth"]
    command += ["--model-store", str(place.folder), "--models", "label=label.mar"]
    return [*command, "--ts-config", str(place.folder / "config.properties")]


def _pytriton(place: Place) -> list[str]:
    return [place.python, str(SERVERS / "serve_pytriton.py")]


def _base64(name: str, *, several: bool) -> Callable[[bytes, tuple[int, int, int]], bytes]:
    def request(pixels: bytes, _: tuple[int, int, int]) -> bytes:
        text = base64.b64encode(pixels).decode()
        return json.dumps({name: [text] if several else text}).encode()

    return request


def _infer(datatype: str) -> Callable[[bytes, tuple[int, int, int]], bytes]:
    def request(pixels: bytes, shape: tuple[int, int, int]) -> bytes:
        message = service_pb2.ModelInferRequest(model_name="label")
        dimensions = [1, *shape] if datatype == "UINT8" else [1]
        message.inputs.add(name="image", datatype=datatype, shape=dimensions)
        size = len(pixels).to_bytes(4, "little") if datatype == "BYTES" else b""
        message.raw_input_contents.append(size + pixels)
        return message.SerializeToString()

    return request


def _infer_label(answer: bytes) -> str:
    message = service_pb2.ModelInferResponse.FromString(answer)
    if message.raw_output_contents:
        return message.raw_output_contents[0][4:].decode()
    return message.outputs[0].contents.bytes_contents[0].decode()


def _delimited(number: int, content: bytes) -> bytes:
    """Return a protobuf field of text, bytes or a message."""
    size, length = b"", len(content)
    while length > 127:
        size, length = size + bytes([length & 127 | 128]), length >> 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + content


def _prediction(pixels: bytes, _: tuple[int, int, int]) -> bytes:
    """Return TorchServe's PredictionsRequest: model_name is its field 1, the map `input` its field 3."""
    return _delimited(1, b"label") + _delimited(3, _delimited(1, b"image") + _delimited(2, pixels))


def _prediction_label(answer: bytes) -> str:
    """Return the label of TorchServe's PredictionResponse, whose only field is the prediction, below 128 bytes."""
    return answer[2:].decode()


_INFER = "/inference.GRPCInferenceService/ModelInfer"
OURS = Peer(
    "saccade",
    "saccade",
    "gRPC, raw pixels",
    _saccade,
    "unary",
    "/saccade.v1.ImageClassifier/Classify",
    _classify_request,
    _classify_label,
)
PEERS = {
    peer.name: peer
    for peer in (
        Peer("mosec", "mosec", "HTTP, raw body", _mosec, "http", "/inference", lambda pixels, _: pixels, bytes.decode),
        Peer(
            "litserve",
            "litserve",
            "HTTP, base64 in JSON",
            _litserve,
            "http",
            "/predict",
            _base64("image", several=False),
            lambda answer: str(json.loads(answer)["label"]),
            "application/json",
        ),
        Peer(
            "bentoml",
            "bentoml",
            "HTTP, base64 in JSON",
            _bentoml,
            "http",
            "/classify",
            _base64("pictures", several=True),
            lambda answer: str(json.loads(answer)[0]),
            "application/json",
            {"BENTOML_DO_NOT_TRACK": "True"},
        ),
        Peer("mlserver", "mlserver", "gRPC (OIP), BYTES", _mlserver, "unary", _INFER, _infer("BYTES"), _infer_label),
        Peer(
            "torchserve",
            "torchserve",
            "gRPC, raw bytes",
            _torchserve,
            "unary",
            "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions",
            _prediction,
            _prediction_label,
        ),
        Peer(
            "pytriton",
            "nvidia-pytriton",
            "gRPC (OIP), UINT8",
            _pytriton,
            "unary",
            _INFER,
            _infer("UINT8"),
            _infer_label,
        ),
    )
}
