"""OpenVINO itself, where it is installed: `pip install '.[openvino,dev]' onnx` in an environment of its own."""

from pathlib import Path

import numpy as np
import pytest

from service.errors import ModelRejected
from service.image import encode_png
from service.providers import OpenVinoOptions
from service.session import Session, candidates
from tests.conftest import Connect, StartServer
from tests.onnx_models import LABELS, pictures, probabilities, weights, write_model

pytestmark = pytest.mark.skipif("openvino" not in candidates("auto"), reason="needs saccade[openvino]")


def opened(path: Path, **options: object) -> Session:
    """Return a session on OpenVINO."""
    said = OpenVinoOptions.model_validate(options)
    return Session(path, "openvino", intra_op_threads=2, max_batch_size=8, options=said)


@pytest.mark.parametrize("size", range(1, 10))
def test_right_answers(size: int, tmp_path: Path) -> None:
    """OpenVINO gives numpy's answers for every batch size, padded to its bucket or divided."""
    session = opened(write_model(tmp_path))
    np.testing.assert_allclose(session.run(pictures(size)), probabilities(pictures(size), weights()), atol=1e-5)
    assert (session.about.provider, session.about.floats, session.about.on_cpu) == ("openvino", "fp32", 0)


@pytest.mark.parametrize("options", [{"streams": 2, "threads": 2}, {"threads": 1}])
def test_options_are_taken(options: dict[str, object], tmp_path: Path) -> None:
    """Threads and streams are what OpenVINO takes: a session with them runs."""
    assert opened(write_model(tmp_path), **options).run(pictures(3)).shape == (3, len(LABELS))


def test_compiled_models_are_kept(tmp_path: Path) -> None:
    """The cache folder holds the compiled model."""
    opened(write_model(tmp_path), cache=tmp_path / "cache").warm_up()
    assert list((tmp_path / "cache").iterdir())


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    """A device that OpenVINO does not find makes no session on the CPU in silence."""
    with pytest.raises(ModelRejected, match="openvino was asked for, ONNX Runtime fell back to CPUExecutionProvider"):
        opened(write_model(tmp_path), device="GPU.9")


def test_served(start_server: StartServer, connect: Connect, repository: Path) -> None:
    """A server on OpenVINO says so and answers right; one whose device is missing fails the version with the reason."""
    client = connect(start_server(repository, provider="openvino", provider_options="streams=2", max_batch_size=4))
    batch = pictures(6, seed=2)
    answer = client.classify(*[encode_png(picture) for picture in batch], top_k=1)
    best = [LABELS[index] for index in probabilities(batch, weights()).argmax(axis=1)]
    assert [categories[0].label for categories in answer.classifications] == best
    [entry] = client.models()
    assert (entry.provider, entry.precision, entry.verified) == ("openvino", "fp32", True)
    broken = connect(start_server(repository, provider="openvino", provider_options="device=GPU.9", ready="any"))
    [entry] = broken.models()
    assert (entry.state, "fell back to CPUExecutionProvider" in entry.reason) == ("FAILED", True)
    passed_over = connect(start_server(repository, provider="auto", provider_options="openvino.device=GPU.9"))
    [entry] = passed_over.models()
    assert (entry.state, entry.provider) == ("READY", "cpu")
    assert entry.reason.startswith("passed over openvino: openvino was asked for, ONNX Runtime fell back")
