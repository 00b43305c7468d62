from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export import data
from service.manifest import KEY, Manifest, Preprocessing
from tests.processes import run


@pytest.fixture
def outlier(tmp_path: Path) -> Path:
    """Return a fp32 file that is right on most digits, and of which int8 leaves nothing.

    Its first layer copies the pixels beside one unit of a million: in steps of 1/255 of that no pixel is left. The
    second layer scores each class by the mean picture of it.
    """
    digits = data.load("digits").train
    pixels = digits.images.reshape(len(digits.images), -1).astype(np.float64)
    means = np.array([pixels[digits.labels == label].mean(axis=0) for label in range(10)])
    arrays = {
        "copy": np.hstack([np.eye(64), np.zeros((64, 1))]),
        "huge": np.append(np.zeros(64), 1e6),
        "means": np.vstack([means.T, np.zeros((1, 10))]) / 1e4,
        "norms": -(means**2).sum(axis=1) / 2e4,
    }
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["floats"], ["flat"]),
            helper.make_node("Gemm", ["flat", "copy", "huge"], ["hidden"]),
            helper.make_node("Relu", ["hidden"], ["positive"]),
            helper.make_node("Gemm", ["positive", "means", "norms"], ["scores"]),
            helper.make_node("Softmax", ["scores"], ["probabilities"]),
        ],
        "outlier",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 8, 8, 1])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(values.astype(np.float32), name) for name, values in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    spec = Preprocessing(height=8, width=8, channels=1)
    manifest = Manifest(labels=tuple("0123456789"), preprocessing=spec, data="digits")
    helper.set_model_props(model, {KEY: manifest.to_json()})
    onnx.save(model, tmp_path / "outlier.onnx")
    return tmp_path / "outlier.onnx"


def test_over_the_limit_nothing_is_published(outlier: Path, tmp_path: Path) -> None:
    """The exit code is 1, and one line says by how much it is over the limit and all that was tried."""
    done = run(
        *("export", str(outlier), "--precision", "int8", "--data", "digits", "--provider", "cpu"),
        *("--repository", str(tmp_path / "models")),
        cwd=tmp_path,
    )
    assert done.returncode == 1, done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("saccade: ")]
    assert "nothing was published: on cpu int8 costs" in line
    assert "over the limit of 0.50" in line
    assert all(f"{method}, every layer: " in line for method in ("minmax", "entropy", "percentile"))
    assert " in float: " in line
    assert not (tmp_path / "models").exists()


def test_what_cannot_be_measured_is_not_published(tmp_path: Path) -> None:
    """The exit code is 1, the reason one line, and the repository stays as it was."""
    done = run(
        *("export", "lenet5-mnist", "--precision", "bf16", "--data", "digits", "--provider", "cpu"),
        *("--repository", str(tmp_path / "models")),
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert "no provider here runs it in bf16" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.onnx"))
