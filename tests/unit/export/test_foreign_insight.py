from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export import explain, measure
from export.data import Pictures
from export.foreign import export_file
from export.measure import Opened, Part
from export.model_file import ModelFile
from tests.foreign_models import write_foreign
from tests.onnx_models import LABELS

SPOT = (12, 4)


def pooled(folder: Path) -> Opened:
    """Write a graph of float NCHW that gives logits: brightness against darkness, by global average pooling."""
    filters = np.repeat(np.array([1, -1], np.float32).reshape(2, 1, 1, 1), 3, axis=1)
    nodes = [
        helper.make_node("Conv", ["data", "filters"], ["features"], kernel_shape=[1, 1]),
        helper.make_node("GlobalAveragePool", ["features"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("Gemm", ["flat", "head"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "pooled",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["N", 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(filters, "filters"), numpy_helper.from_array(np.eye(2, dtype=np.float32), "head")],
    )
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), folder / "net.onnx")
    (folder / "labels.txt").write_text("bright\ndark\n")
    return measure.open_model(ModelFile(folder / "net.onnx", "net"))


def spot() -> np.ndarray:
    """Return a dark picture 16x16x3 with a bright square of 4x4 pixels at SPOT."""
    picture = np.full((16, 16, 3), 20, np.uint8)
    picture[SPOT[0] : SPOT[0] + 4, SPOT[1] : SPOT[1] + 4] = 240
    return picture


@pytest.mark.parametrize("method", ["cam", "occlusion"])
def test_evidence_of_a_foreign_file(method: explain.Method, tmp_path: Path) -> None:
    """A float graph that gives logits is explained as our own are: the evidence lies on the bright spot."""
    opened = pooled(tmp_path)
    found = explain.explain(opened, explain.tap(opened), spot(), classes=[0], method=method)
    down, across = found.evidence[0].peak
    assert SPOT[0] <= 16 * down <= SPOT[0] + 4
    assert SPOT[1] <= 16 * across <= SPOT[1] + 4


def test_feature_maps_get_the_sample(tmp_path: Path) -> None:
    """The maps are those of the normalised sample that the graph takes, not of the pixels."""
    opened = pooled(tmp_path)
    inner = explain.tap(opened)
    sample = opened.samples(spot()[np.newaxis])
    assert sample.shape == (1, 3, 16, 16)
    found = explain.explain(opened, inner, spot())
    assert np.allclose(found.stages[0].values[0], sample[0].sum(axis=0), atol=1e-4)


def test_answers_of_a_foreign_file(tmp_path: Path) -> None:
    """The answers for a part of a data set are probabilities, picture by picture what the graph gives each alone."""
    path = write_foreign(tmp_path)
    (tmp_path / "labels.txt").write_text("\n".join(LABELS))
    opened = measure.open_model(ModelFile(path, "foreign"))
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    part = Part("drawn", "test", 0, Pictures(images, np.zeros(5, np.int64)), LABELS)
    found = measure.answers(opened, part)
    alone = np.concatenate([opened.run(images[place : place + 1]) for place in range(5)])
    assert np.allclose(found, alone, atol=1e-6)
    assert not np.allclose(found[0], found[1], atol=1e-3)


def test_export_of_a_foreign_file_with_its_explain_graph(tmp_path: Path) -> None:
    """With `explain` the published version has explain.onnx, and it is what explains the model."""
    source = pooled(tmp_path / "source").file.path
    done = export_file(source, tmp_path / "models", explain=True)
    assert sorted(entry.name for entry in done.version.iterdir()) == ["explain.onnx", "model.onnx"]
    opened = measure.open_model(ModelFile(done.version / "model.onnx", "net", 1))
    found = explain.explain(opened, explain.tap(opened), spot(), best=1)
    assert found.evidence[0].method == "cam"
