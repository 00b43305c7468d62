"""Providers that are what they say, through a real server."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.errors import Unavailable
from service.image import encode_png
from service.loading import load_model
from service.metrics import Metrics
from service.model import Model, Options
from service.providers import CudaOptions, OpenVinoOptions, Provider, ProviderOptions
from tests.conftest import Connect, Lines, StartServer
from tests.fake_ort import CPU, CUDA, OPENVINO, FakeRuntime, Port
from tests.onnx_models import LABELS, pictures, probabilities, weights, write_model

IMAGE = Port("image", "tensor(uint8)", ["N", 8, 8, 1])
SCORES = Port("probabilities", "tensor(float)", ["N", len(LABELS)])


def runtime(**given: Any) -> FakeRuntime:  # noqa: ANN401 - what FakeRuntime takes
    """Return a fake of ONNX Runtime that answers as the linear model does."""
    return FakeRuntime(lambda batch: probabilities(batch, weights()), inputs=[IMAGE], outputs=[SCORES], **given)


class _LoadEach:
    """Loads each model with options of its own, as servers on several machines would."""

    def __init__(self, **options: Options) -> None:
        self.options, self.metrics = options, Metrics()

    def __call__(self, path: Path, name: str, version: int) -> Model:
        return load_model(path, name, version, self.options[name], self.metrics)


def test_each_failure_is_its_own(start_server: StartServer, connect: Connect, tmp_path: Path) -> None:
    """Missing library, silent fall-back, wrong option: each fails one version, with its reason, beside a READY one."""
    (tmp_path / "file").write_text("")
    wrong = OpenVinoOptions(cache=tmp_path / "file" / "cache")
    load = _LoadEach(
        good=Options("cpu", max_batch_size=4),
        missing=Options("tensorrt"),
        silent=Options("cuda", onnxruntime=runtime(loads=[CPU])),
        wrong=Options("openvino", provider_options={"openvino": wrong}, onnxruntime=runtime(built=[OPENVINO, CPU])),
        memory=Options("cuda", onnxruntime=runtime(answers={CUDA: _out_of_memory})),
    )
    for name in load.options:
        write_model(tmp_path / "models" / name / "1")
    client = connect(start_server(tmp_path / "models", load=load, metrics=load.metrics, ready="any"))
    found = {entry.name: entry for entry in client.models()}
    assert {name: entry.state for name, entry in found.items()} == {
        name: "READY" if name == "good" else "FAILED" for name in load.options
    }
    assert "built without TensorrtExecutionProvider" in found["missing"].reason
    assert "cuda was asked for, ONNX Runtime fell back to CPUExecutionProvider; " in found["silent"].reason
    assert found["wrong"].reason == "openvino: its option cache is no folder that can be written to: Not a directory"
    assert found["memory"].reason == "cuda: it cannot run the model; the GPU has too little memory"
    assert str(tmp_path) not in "".join(entry.reason for entry in found.values())
    picture = encode_png(pictures(1)[0])
    assert client.classify(picture, model="good").version == "1"
    with pytest.raises(Unavailable):
        client.classify(picture, model="silent")


def test_cuda_is_served(start_server: StartServer, connect: Connect, repository: Path) -> None:
    """A server on the fake GPU answers right, replays the graphs of its own threads, and says device and precision."""
    fake = runtime(gpus=2)
    options: dict[Provider, ProviderOptions] = {"cuda": CudaOptions(devices=(0, 1), tf32=True)}
    load = _LoadEach(linear=Options("cuda", max_batch_size=4, instances=2, provider_options=options, onnxruntime=fake))
    server = start_server(repository, load=load, metrics=load.metrics)
    client = connect(server)
    batch = pictures(9, seed=4)
    answer = client.classify(*[encode_png(picture) for picture in batch], top_k=1)
    best = [LABELS[index] for index in probabilities(batch, weights()).argmax(axis=1)]
    assert [categories[0].label for categories in answer.classifications] == best
    [entry] = client.models()
    assert (entry.state, entry.provider, entry.precision) == ("READY", "cuda", "tf32")
    model = server.repository.find("linear", "")
    assert model.facts.device == "cuda:0, cuda:1"
    for session in fake.sessions:
        assert {recorded[0] for recorded in session.recorded.values()} == {session.runs[-1].thread}
    assert not fake.misused


def test_nodes_on_the_cpu_are_shown(
    start_server: StartServer, connect: Connect, repository: Path, lines: Lines
) -> None:
    """ListModels and the log say how many nodes a provider left to the CPU."""
    load = _LoadEach(linear=Options("cuda", onnxruntime=runtime(nodes={CUDA: 7, CPU: 2})))
    [entry] = connect(start_server(repository, load=load, metrics=load.metrics)).models()
    assert (entry.state, entry.reason) == ("READY", "2 nodes left to the CPU by cuda")
    [line] = [line for line in lines() if line["event"] == "nodes left on the CPU"]
    assert (line["provider"], line["nodes"]) == ("cuda", 2)


def test_auto_says_what_it_passed_over(start_server: StartServer, connect: Connect, repository: Path) -> None:
    """`auto` serves by the first provider that passes, and ListModels says why those before it did not."""
    load = _LoadEach(
        linear=Options(
            "auto", onnxruntime=runtime(answers={CUDA: lambda batch: np.full((len(batch), 4), 0.25, np.float32)})
        )
    )
    [entry] = connect(start_server(repository, load=load, metrics=load.metrics)).models()
    assert (entry.state, entry.provider) == ("READY", "cpu")
    assert (
        "passed over tensorrt: tensorrt was asked for, ONNX Runtime fell back to CUDAExecutionProvider" in entry.reason
    )
    assert "passed over cuda: self-test: golden sample " in entry.reason


def test_graphs_that_cannot_be_recorded(start_server: StartServer, connect: Connect, repository: Path) -> None:
    """A provider that fails on the very thread that is to serve is passed over too: READY waits for that thread."""
    fake = runtime()
    made = fake.InferenceSession

    def create(*given: Any, **named: Any) -> Any:  # noqa: ANN401 - what InferenceSession takes
        session = made(*given, **named)
        session.fails = "CUDNN_STATUS_NOT_SUPPORTED"
        return session

    options = Options("auto", onnxruntime=fake)
    load = _LoadEach(linear=replace(options, create_session=create))
    [entry] = connect(start_server(repository, load=load, metrics=load.metrics)).models()
    assert (entry.state, entry.provider) == ("READY", "cpu")
    assert "passed over cuda: it cannot run the model; cuDNN failed" in entry.reason


def _out_of_memory(_: object) -> Any:  # noqa: ANN401 - never answers
    raise RuntimeError("CUDA failure 2: out of memory ; GPU=0 ; /secret/path")
