"""On a GPU machine: what the fake of ONNX Runtime only stands for.

pip install '.[gpu,dev]' onnx && pytest -m gpu tests/gpu
"""

import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest

from service.errors import ModelRejected
from service.providers import CudaOptions, Provider, ProviderOptions, TensorRtOptions
from service.server import BUNDLED
from service.session import Session, candidates, runtime
from tests.fakes import Job
from tests.onnx_models import pictures, probabilities, weights, write_model
from tests.processes import ServerProcess
from tests.processes import run as saccade

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]
LENET = BUNDLED / "lenet5-mnist/1/model.onnx"


@pytest.fixture(autouse=True)
def gpu() -> None:
    """Skip where no driver shows a GPU, or ONNX Runtime was built without CUDA."""
    try:
        shown = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        shown = ""
    if not shown.strip() or "cuda" not in candidates("auto"):
        pytest.skip("needs an NVIDIA GPU and saccade[gpu]")


def opened(path: Path, provider: Provider, options: ProviderOptions | None = None, largest: int = 8) -> Session:
    """Return a session on the GPU."""
    if provider == "tensorrt" and runtime.explain_missing("tensorrt", runtime.load().get_available_providers()):
        pytest.skip("this ONNX Runtime has no TensorRT")
    return Session(path, provider, intra_op_threads=1, max_batch_size=largest, options=options)


@pytest.mark.parametrize("graphs", ["on", "off"])
@pytest.mark.parametrize("size", [1, 3, 8, 9])
def test_cuda_is_right(graphs: str, size: int, tmp_path: Path) -> None:
    """CUDA gives numpy's answers for every batch size, with graphs and without, before and after taking over."""
    session = opened(write_model(tmp_path), "cuda", CudaOptions.model_validate({"graphs": graphs}))
    for _ in range(2):
        np.testing.assert_allclose(session.run(pictures(size)), probabilities(pictures(size), weights()), atol=1e-4)
        session.take_over()


def test_graphs_follow_their_inputs() -> None:
    """Replayed graphs see each new batch, and run on the serving thread while others go without."""
    session, cpu = opened(LENET, "cuda", CudaOptions(graphs="on")), opened(LENET, "cpu")
    batches = [np.random.default_rng(seed).integers(0, 256, (4, 28, 28, 1), dtype=np.uint8) for seed in range(5)]

    def serve() -> list[float]:
        session.take_over()
        return [float(np.abs(session.run(batch) - cpu.run(batch)).max()) for batch in batches]

    assert max(Job(serve).answer()) < 1e-4
    assert threading.current_thread() is threading.main_thread()
    assert np.abs(session.run(batches[0]) - cpu.run(batches[0])).max() < 1e-4


def test_a_device_that_is_not_there() -> None:
    """A GPU's number that there is none of is refused in one sentence."""
    with pytest.raises(ModelRejected, match="there is no GPU 63"):
        opened(LENET, "cuda", CudaOptions(devices=(63,)))


def test_tensorrt_is_right(tmp_path: Path) -> None:
    """TensorRT gives the CPU's answers, and the second session takes its engine from the cache."""
    options = TensorRtOptions(cache=tmp_path / "engines")
    for _ in range(2):
        session = opened(LENET, "tensorrt", options)
        session.take_over()
        batch = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 1), dtype=np.uint8)
        assert np.abs(session.run(batch) - opened(LENET, "cpu").run(batch)).max() < 5e-3
    assert list((tmp_path / "engines").glob("*.engine"))


def test_a_server_on_the_gpu() -> None:
    """`saccade serve --provider cuda` verifies the bundled model and classifies the example digits."""
    with ServerProcess(None, "--provider", "cuda") as server:
        [ready] = [line for line in server.lines if line["event"] == "model ready"]
        assert (ready["provider"], ready["device"], ready["verified"]) == ("cuda", "cuda:0", True)
        done = saccade("classify", "--address", server.address, "--json")
        assert done.returncode == 0, done.stderr
