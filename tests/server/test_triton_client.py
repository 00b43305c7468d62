"""Triton's own client against the server, unmodified and in a process of its own: what its users call works here."""

import base64
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service import image
from service.rpc.pb.inference import extensions_pb2, model_config_pb2, service_pb2
from tests.conftest import StartServer
from tests.descriptors import protocol
from tests.onnx_models import LABELS, pictures, probabilities, weights, write_model
from tests.triton import Connect, TritonClient, as_base64, pixels, rows, served

EXPECTED = probabilities(pictures(6), weights())
FILES_OF_THE_PROTOCOL = (service_pb2.DESCRIPTOR, extensions_pb2.DESCRIPTOR, model_config_pb2.DESCRIPTOR)
FILES = [image.encode_png(picture) for picture in pictures(6)]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonClient]:
    """Return a client of a server with one model; nothing here changes either."""
    root = tmp_path_factory.mktemp("models")
    write_model(root / "linear" / "1")
    with served(root) as opened:
        yield opened


def test_same_protocol(client: TritonClient) -> None:
    """Every method and every field has the name, number and type that the client was generated from."""
    theirs, ours = client.do("protocol"), protocol(*FILES_OF_THE_PROTOCOL)
    differing = {
        (message, field): (told, theirs["messages"].get(message, {}).get(field))
        for message, fields in ours["messages"].items()
        for field, told in fields.items()
        if theirs["messages"].get(message, {}).get(field) != told
    }
    assert not differing
    assert ours["methods"] == theirs["methods"]


def test_whole_messages(client: TritonClient) -> None:
    """Of the messages of inference no field is left out."""
    theirs, ours = client.do("protocol")["messages"], protocol(service_pb2.DESCRIPTOR)["messages"]
    assert {name: fields.keys() for name, fields in ours.items()} == {name: theirs[name].keys() for name in ours}


@pytest.mark.parametrize(
    ("method", "given", "expected"),
    [
        ("is_server_live", {}, True),
        ("is_server_ready", {}, True),
        ("is_model_ready", {"model_name": "linear"}, True),
        ("is_model_ready", {"model_name": "linear", "model_version": "1"}, True),
        ("is_model_ready", {"model_name": "linear", "model_version": "2"}, False),
        ("is_model_ready", {"model_name": "nobody"}, False),
    ],
)
def test_ready(client: TritonClient, method: str, given: dict[str, str], *, expected: bool) -> None:
    """The server and its models are live and ready; what is not there is not ready."""
    assert client.call(method, **given) is expected


def test_server_metadata(client: TritonClient) -> None:
    """The server says its name, its version, and only the extensions that are there."""
    assert client.call("get_server_metadata") == {
        "name": "saccade",
        "version": version("saccade"),
        "extensions": ["classification", "model_configuration", "statistics"],
    }


def test_model_metadata(start_server: StartServer, triton: Connect, repository: Path) -> None:
    """A model shows its served versions, one input of pixels and one output of probabilities, batch first."""
    write_model(repository / "linear" / "3")
    write_model(repository / "linear" / "2", wrong_by=0.1)
    client = triton(start_server(repository))
    metadata = client.call("get_model_metadata", model_name="linear")
    assert metadata == {
        "name": "linear",
        "versions": ["1", "3"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": ["-1", "8", "8", "1"]}],
        "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": ["-1", "4"]}],
    }
    asked = client.call("get_model_metadata", model_name="linear", model_version="1")
    assert asked == {**metadata, "versions": ["1"]}


def test_model_config(start_server: StartServer, triton: Connect, repository: Path) -> None:
    """The configuration holds what image_client and perf_analyzer read of it."""
    client = triton(start_server(repository, max_batch_size=8, queue_delay_ms=0.5, queue_size=99))
    config = client.call("get_model_config", model_name="linear")["config"]
    assert (config["name"], config["platform"], config["max_batch_size"]) == ("linear", "onnxruntime_onnx", 8)
    [taken], [given] = config["input"], config["output"]
    assert (taken["name"], taken["data_type"], taken["format"], taken["dims"]) == (
        "image",
        "TYPE_UINT8",
        "FORMAT_NHWC",
        ["8", "8", "1"],
    )
    assert (given["name"], given["data_type"], given["dims"]) == ("probabilities", "TYPE_FP32", ["4"])
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == "500"
    assert config["dynamic_batching"]["default_queue_policy"]["max_queue_size"] == 99
    assert config["model_transaction_policy"]["decoupled"] is False
    assert config["response_cache"]["enable"] is False
    assert not {"sequence_batching", "ensemble_scheduling"} & config.keys()


@pytest.mark.parametrize("method", ["get_model_metadata", "get_model_config"])
@pytest.mark.parametrize(("name", "asked"), [("nobody", ""), ("linear", "7")])
def test_unknown_model(client: TritonClient, method: str, name: str, asked: str) -> None:
    """An unknown model or version is NOT_FOUND and names those there are."""
    answer = client.call(method, model_name=name, model_version=asked)
    assert answer["status"] == "StatusCode.NOT_FOUND"
    assert "there are: " in answer["error"]


@pytest.mark.parametrize("do", ["infer", "aio_infer"])
@pytest.mark.parametrize("all_outputs", [False, True])
def test_infer(client: TritonClient, do: str, *, all_outputs: bool) -> None:
    """Raw pixels give the probabilities of the bare arithmetic, the model, its version and the id as it came."""
    answer = client.do(do, pixels=pixels(3), request_id="seven", all_outputs=all_outputs)
    np.testing.assert_allclose(rows(answer), EXPECTED[:3], atol=1e-6)
    assert (answer["model"], answer["version"], answer["id"]) == ("linear", "1", "seven")
    assert (answer["shapes"], answer["datatypes"]) == ({"probabilities": [3, 4]}, {"probabilities": "FP32"})
    assert answer["final"] is None


def test_files(client: TritonClient) -> None:
    """A BYTES tensor of picture files gives the same as the pixels."""
    np.testing.assert_allclose(rows(client.do("infer", files=as_base64(FILES))), EXPECTED, atol=1e-6)


@pytest.mark.parametrize(
    ("datatype", "shape", "contents"),
    [
        ("UINT8", [2, 8, 8, 1], {"uint_contents": pictures(6)[:2].ravel().tolist()}),
        ("BYTES", [2], {"bytes_contents": as_base64(FILES[:2])}),
        ("BYTES", [2, 1], {"bytes_contents": as_base64(FILES[:2])}),
    ],
)
def test_typed(client: TritonClient, datatype: str, shape: list[int], contents: dict[str, Any]) -> None:
    """Typed elements are read too, and the answer is raw all the same."""
    tensor = {"name": "image", "datatype": datatype, "shape": shape, "contents": contents}
    answer = client.do("raw", method="ModelInfer", message={"model_name": "linear", "inputs": [tensor]})
    assert "error" not in answer, answer
    [output], [raw] = answer["outputs"], answer["raw_output_contents"]
    assert (output["shape"], "contents" in output) == (["2", "4"], False)
    np.testing.assert_allclose(np.frombuffer(base64.b64decode(raw), "<f4").reshape(2, 4), EXPECTED[:2], atol=1e-6)


@pytest.mark.parametrize(("classes", "given"), [(1, 1), (3, 3), (9, 4)])
def test_classification(client: TritonClient, classes: int, given: int) -> None:
    """Asked for classes, each picture gets `value:index:label`, six decimals, falling; more than there are give all."""
    answer = client.do("infer", pixels=pixels(2), classes=classes)
    assert (answer["datatypes"], answer["shapes"]) == ({"probabilities": "BYTES"}, {"probabilities": [2, given]})
    order = np.argsort(-EXPECTED[:2], axis=1)[:, :given]
    expected = [f"{EXPECTED[n, i]:f}:{i}:{LABELS[i]}" for n, row in enumerate(order) for i in row]
    assert rows(answer) == expected


def test_labels(start_server: StartServer, triton: Connect, repository: Path) -> None:
    """A colon within a label is replaced, and an empty label by the index, since clients split at colons."""
    write_model(repository / "odd" / "1", labels=("a:b", "", "c", "d"))
    answer = triton(start_server(repository)).do("infer", model="odd", pixels=pixels(), classes=4)
    assert sorted(text.split(":", 1)[1] for text in rows(answer)) == ["0:a_b", "1:1", "2:c", "3:d"]


def test_more_than_the_largest_batch(start_server: StartServer, triton: Connect, repository: Path) -> None:
    """A request with more pictures than the largest batch is split and answered whole, in order."""
    client = triton(start_server(repository, max_batch_size=4))
    np.testing.assert_allclose(rows(client.do("infer", pixels=pixels(11))), EXPECTED[np.arange(11) % 6], atol=1e-6)


def test_unknown_parameters(client: TritonClient) -> None:
    """Parameters that mean nothing here are accepted, those of sequences and priorities too."""
    answer = client.do(
        "infer", pixels=pixels(), parameters={"a": 1, "b": "c"}, sequence_id=7, sequence_start=True, priority=2
    )
    np.testing.assert_allclose(rows(answer), EXPECTED[:1], atol=1e-6)


def test_compressed(client: TritonClient) -> None:
    """A compressed request is read."""
    answer = client.do("infer", pixels=pixels(), compression_algorithm="gzip")
    np.testing.assert_allclose(rows(answer), EXPECTED[:1], atol=1e-6)


@pytest.mark.parametrize(
    ("given", "texts"),
    [
        ({"pixels": pixels()[0]}, ["inputs[0].shape", "expected [-1, 8, 8, 1]", "got [8, 8, 1]"]),
        ({"pixels": pictures(2).reshape(2, 1, 8, 8).tolist()}, ["expected [-1, 8, 8, 1]", "got [2, 1, 8, 8]"]),
        ({"pixels": pixels(), "datatype": "FP32"}, ["inputs[0].datatype", "expected UINT8", "BYTES", "got 'FP32'"]),
        ({"pixels": pixels(), "name": "input"}, ["inputs[0].name", "expected 'image'", "got 'input'"]),
        ({"pixels": pixels(), "output": "logits"}, ["outputs[0].name", "expected 'probabilities'", "got 'logits'"]),
        ({"files": as_base64([FILES[0], b"garbage"])}, ["inputs[0][1]", "7 bytes"]),
        ({"pixels": pixels(), "version": "one"}, ["version", "'one'", "whole number"]),
    ],
    ids=["no batch", "channels first", "floats", "input's name", "output's name", "no picture", "no version"],
)
def test_wrong(client: TritonClient, given: dict[str, Any], texts: list[str]) -> None:
    """What is wrong with a request is INVALID_ARGUMENT with the field, what was expected and what came."""
    answer = client.do("infer", **given)
    assert answer["status"] == "StatusCode.INVALID_ARGUMENT"
    assert [text for text in texts if text not in answer["error"]] == []


def test_unknown_model_to_infer(client: TritonClient) -> None:
    """A request to an unknown model is NOT_FOUND and names those there are."""
    answer = client.do("infer", model="nobody", pixels=pixels())
    assert (answer["status"], "there are: linear" in answer["error"]) == ("StatusCode.NOT_FOUND", True)


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("get_system_shared_memory_status", {}),
        ("register_system_shared_memory", {"name": "a", "key": "/a", "byte_size": 8}),
        ("unregister_system_shared_memory", {}),
        ("get_cuda_shared_memory_status", {}),
        ("unregister_cuda_shared_memory", {}),
        ("get_trace_settings", {}),
        ("update_trace_settings", {"settings": {"trace_level": "OFF"}}),
        ("get_log_settings", {}),
        ("update_log_settings", {"settings": {"log_file": "/tmp/a"}}),
    ],
)
def test_not_served(client: TritonClient, method: str, given: dict[str, Any]) -> None:
    """Shared memory, trace and log settings are UNIMPLEMENTED with a sentence that says what to do instead."""
    answer = client.call(method, **given)
    assert answer["status"] == "StatusCode.UNIMPLEMENTED"
    assert len(answer["error"].split()) > 5


def test_registering_cuda_memory(client: TritonClient) -> None:
    """So is registering memory of a GPU, whose handle the client would take from a GPU."""
    message = {"name": "a", "raw_handle": "AA==", "byte_size": 8}
    assert client.do("raw", method="CudaSharedMemoryRegister", message=message)["status"] == "StatusCode.UNIMPLEMENTED"


@pytest.mark.parametrize("where", ["inputs", "outputs"])
def test_shared_memory_in_a_request(client: TritonClient, where: str) -> None:
    """A request whose tensors are in shared memory is UNIMPLEMENTED and says where tensors go."""
    message: dict[str, Any] = {
        "model_name": "linear",
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 8, 8, 1]}],
        "outputs": [{"name": "probabilities"}],
    }
    message[where][0]["parameters"] = {"shared_memory_region": {"string_param": "a"}}
    answer = client.do("raw", method="ModelInfer", message=message)
    assert answer["status"] == "StatusCode.UNIMPLEMENTED"
    assert f"{where}[0]: shared memory is not supported" in answer["error"]
