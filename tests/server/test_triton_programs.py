"""Programs written for Triton, by their calls in their order: what each reads must be there as it reads it.

perf_analyzer itself is run where it is on the PATH. Its package is empty; the last wheel that holds it is tritonclient
2.44.0's for Linux, and it wants libb64 and libcudart 12 beside it.
"""

import base64
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartServer
from tests.onnx_models import LABELS, pictures, probabilities, weights
from tests.triton import Connect, TritonClient, pixels, rows

BEST = probabilities(pictures(6), weights()).argmax(axis=1)


def check_as_image_client(client: TritonClient) -> tuple[str, str]:
    """Do what image_client.py does before it sends pictures, and return the names of input and output.

    One input and one output; FP32 out, a vector beside the batch; an input of the batch and three dimensions, whose
    order the configuration says.
    """
    metadata = client.call("get_model_metadata", model_name="linear", model_version="")
    config = client.call("get_model_config", model_name="linear", model_version="")["config"]
    [taken], [given] = metadata["inputs"], metadata["outputs"]
    [configured] = config["input"]
    assert config["max_batch_size"] > 0
    assert given["datatype"] == "FP32"
    assert sum(int(size) > 1 for size in given["shape"][1:]) <= 1
    assert len(taken["shape"]) == 4
    assert configured["format"] == "FORMAT_NHWC"
    assert [int(size) for size in taken["shape"][1:]] == [8, 8, 1]
    return taken["name"], given["name"]


def labels_of(answer: dict[str, Any], batch_size: int, classes: int) -> list[str]:
    """Return the best label of each picture as image_client.py prints it: three parts, split at colons."""
    assert answer["shapes"]["probabilities"] == [batch_size, classes]
    parts = [text.split(":") for text in rows(answer)]
    assert all(len(part) == 3 for part in parts)
    return [label for _, _, label in parts[::classes]]


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("how", ["sync", "async", "streaming"])
def test_image_client(start_server: StartServer, triton: Connect, repository: Path, how: str, batch_size: int) -> None:
    """The calls of image_client.py, in its three ways, give each picture its label."""
    client = triton(start_server(repository))
    taken, given = check_as_image_client(client)
    asked = {"pixels": pixels(batch_size), "name": taken, "output": given, "classes": 3, "request_id": "1"}
    if how == "sync":
        answer = client.do("infer", **asked)
    elif how == "async":
        client.do("begin", **asked)
        answer = client.do("result")
    else:
        client.do("start_stream")
        client.do("send", **asked)
        answer = client.do("result")
        client.do("stop_stream")
    assert answer["id"] == "1"
    assert labels_of(answer, batch_size, 3) == [LABELS[index] for index in BEST[:batch_size]]


@pytest.mark.parametrize("streaming", [False, True])
def test_perf_analyzer_by_its_calls(
    start_server: StartServer, triton: Connect, repository: Path, *, streaming: bool
) -> None:
    """The calls of perf_analyzer, with the parameter that it always sends, and what it checks of the counts."""
    client = triton(start_server(repository))
    check_as_image_client(client)
    assert "statistics" in client.call("get_server_metadata")["extensions"]
    [before] = client.call("get_inference_statistics", model_name="linear")["model_stats"]
    if streaming:
        client.do("start_stream")
        client.do("send", pixels=pixels(2), enable_empty_final_response=True)
        rows(client.do("result"))
    else:
        message = {
            "model_name": "linear",
            "parameters": {"triton_enable_empty_final_response": {"bool_param": True}},
            "inputs": [{"name": "image", "datatype": "UINT8", "shape": [2, 8, 8, 1]}],
            "outputs": [{"name": "probabilities"}],
            "raw_input_contents": [base64.b64encode(pictures(2).tobytes()).decode()],
        }
        assert "error" not in client.do("raw", method="ModelInfer", message=message)
    [after] = client.call("get_inference_statistics", model_name="linear")["model_stats"]
    risen = {
        name: int(after["inference_stats"][name]["count"]) - int(before["inference_stats"][name]["count"])
        for name in after["inference_stats"]
    }
    computed = {risen[name] for name in ("compute_input", "compute_infer", "compute_output")}
    assert (int(after["version"]), risen["queue"], risen["success"], computed) == (1, 1, 1, {1})


@pytest.mark.skipif(not shutil.which("perf_analyzer"), reason="perf_analyzer is not on the PATH; see the module")
@pytest.mark.parametrize("flags", [[], ["--async", "-b", "4"], ["--streaming"]], ids=["sync", "async", "streaming"])
def test_perf_analyzer(start_server: StartServer, repository: Path, flags: list[str]) -> None:
    """perf_analyzer itself measures the server, and reads the server's own counts."""
    server = start_server(repository)
    command = ["perf_analyzer", "-i", "grpc", "-u", f"127.0.0.1:{server.grpc_port}", "-m", "linear"]
    windows = ["--measurement-interval", "500", "--stability-percentage", "999", "--concurrency-range", "2"]
    done = subprocess.run([*command, *windows, *flags], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Inference count:" in done.stdout
    assert "queue" in done.stdout
