from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from service.errors import ModelRejected
from service.session import open_graph
from tests.onnx_models import pictures, probabilities, weights, write_model


def with_scores(folder: Path) -> Path:
    """Write the linear model with its scores as a second output."""
    path = write_model(folder)
    model = onnx.load(path)
    model.graph.output.append(helper.make_tensor_value_info("scores", TensorProto.FLOAT, None))
    onnx.save(model, path)
    return path


def test_all_outputs_by_name(tmp_path: Path) -> None:
    """Every output of the graph comes under its name, for a batch of any size."""
    batch = pictures(3)
    found = open_graph(with_scores(tmp_path))(batch)
    assert list(found) == ["probabilities", "scores"]
    assert np.allclose(found["probabilities"], probabilities(batch, weights()), atol=1e-5)
    assert np.allclose(found["scores"], batch.reshape(3, -1).astype(np.float32) @ weights(), atol=1e-3)


def test_contents_instead_of_a_file(tmp_path: Path) -> None:
    """The contents of a file give the same as the file."""
    path, batch = with_scores(tmp_path), pictures(2)
    found = open_graph(path.read_bytes())(batch)
    assert all(np.array_equal(values, found[name]) for name, values in open_graph(path)(batch).items())


@pytest.mark.parametrize("as_bytes", [True, False])
def test_no_graph(as_bytes: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a parameter of the test
    """What is no ONNX file is refused, without ONNX Runtime's own words."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(ModelRejected, match=r"^ONNX Runtime cannot load it on cpu; the log says why$"):
        open_graph(path.read_bytes() if as_bytes else path)
