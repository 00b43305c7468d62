"""The same models asked through saccade.v1 and through the Open Inference Protocol."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from service import image
from service.rpc.inference import SERVICE
from service.rpc.pb.inference import service_pb2 as pb
from tests.conftest import Channel, Connect, StartServer
from tests.fakes import WAIT
from tests.foreign_models import SIDE, samples, write_foreign
from tests.onnx_models import pictures

PICTURES = np.random.default_rng(5).integers(0, 256, (5, SIDE, SIDE, 3), dtype=np.uint8)
FOREIGN: dict[str, dict[str, Any]] = {
    "fixed-batch": {"batch": 1, "names": ("gpu_0/data_0", "gpu_0/pred_1"), "last": ["Softmax"]},
    "ones": {"batch": "N", "ones": True},
}


def infer(channel: Any, asked: pb.ModelInferRequest) -> Any:  # noqa: ANN401 - an array
    """Return the rows that ModelInfer gives."""
    method = channel.unary_unary(
        f"/{SERVICE}/ModelInfer",
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelInferResponse.FromString,
    )
    response = method(asked, timeout=WAIT)
    assert response.outputs[0].name == "probabilities"
    return np.frombuffer(response.raw_output_contents[0], "<f4").reshape(list(response.outputs[0].shape))


def files(model: str, name: str, encoded: list[bytes]) -> pb.ModelInferRequest:
    """Return a request with picture files."""
    tensor = pb.ModelInferRequest.InferInputTensor(name=name, datatype="BYTES", shape=[len(encoded)])
    tensor.contents.bytes_contents.extend(encoded)
    return pb.ModelInferRequest(model_name=model, inputs=[tensor])


@pytest.mark.parametrize("model", ["linear", *FOREIGN])
def test_equal_answers(
    model: str, start_server: StartServer, connect: Connect, channel: Channel, repository: Path
) -> None:
    """A model of ours, a foreign one of a fixed batch and one that gives [N, C, 1, 1] answer alike through both."""
    if model in FOREIGN:
        written = write_foreign(repository / model / "1", gain=1.0, **FOREIGN[model])
        (written.parent / "manifest.json").write_text(json.dumps({"preprocessing": {"scale": 1.0, "fit": "stretch"}}))
    encoded = [image.encode_png(picture) for picture in (PICTURES if model in FOREIGN else pictures(5))]
    server = start_server(repository)
    answer = connect(server).classify(*encoded, model=model, top_k=4)
    name = str(FOREIGN[model].get("names", ("data_0",))[0]) if model in FOREIGN else "image"
    rows = infer(channel(server), files(model, name, encoded))
    for row, best in zip(rows, answer.classifications, strict=True):
        assert [entry.probability for entry in best] == [row[entry.index] for entry in best]
        assert [entry.index for entry in best] == np.argsort(-row, kind="stable").tolist()


@pytest.mark.parametrize("model", FOREIGN)
def test_raw_tensors(model: str, start_server: StartServer, channel: Channel, repository: Path) -> None:
    """A foreign model's own float tensor gives what the bare session gives, as probabilities."""
    path = write_foreign(repository / model / "1", **FOREIGN[model])
    batch = samples(3)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    bare = np.concatenate([session.run(None, {name: one[np.newaxis]})[0].reshape(1, -1) for one in batch])
    if "last" not in FOREIGN[model]:
        bare = np.exp(bare) / np.exp(bare).sum(axis=1, keepdims=True)
    asked = pb.ModelInferRequest(model_name=model, raw_input_contents=[batch.tobytes()])
    asked.inputs.add(name=name, datatype="FP32", shape=batch.shape)
    np.testing.assert_allclose(infer(channel(start_server(repository)), asked), bare, atol=1e-6)
