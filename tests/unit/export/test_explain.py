import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from export import explain, explain_graph, explain_page, plan, tiles
from export.measure import Opened, open_model
from export.model_file import ModelFile, find
from service import image
from service.errors import ModelRejected, SetupError
from service.manifest import KEY, Manifest, Preprocessing
from tests.onnx_models import LABELS, write_model

SPEC = Preprocessing(height=16, width=16, channels=1)
RANDOM = np.random.default_rng(0)
FILTERS = np.asarray(RANDOM.standard_normal((6, 1, 3, 3)) / 50, np.float32)
HEAD = np.asarray(RANDOM.standard_normal((4, 6)), np.float32)
BIAS = np.asarray(RANDOM.standard_normal(4), np.float32)

node = helper.make_node
Weights = dict[str, npt.NDArray[Any]]


def write(folder: Path, body: Sequence[NodeProto], weights: Weights, *, opset: int = 20, classes: int = 4) -> Opened:
    """Write and open a classifier of pictures 16x16x1: `body` takes `maps` [N, 1, 16, 16] and gives `scores`."""
    nodes = [
        node("Transpose", ["image"], ["turned"], perm=[0, 3, 1, 2]),
        node("Cast", ["turned"], ["maps"], to=TensorProto.FLOAT),
        *body,
        node("Softmax", ["scores"], ["probabilities"]),
    ]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 16, 16, 1])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", classes])],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    helper.set_model_props(model, {KEY: Manifest(labels=LABELS[:classes], preprocessing=SPEC).to_json()})
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    return open_model(ModelFile(folder / "model.onnx", "test"))


CONV = node("Conv", ["maps", "filters"], ["features"], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
HEADS: dict[str, tuple[list[NodeProto], Weights, int]] = {
    "GlobalAveragePool, Flatten, Gemm": (
        [
            node("GlobalAveragePool", ["features"], ["pooled"]),
            node("Flatten", ["pooled"], ["flat"]),
            node("Gemm", ["flat", "head", "bias"], ["scores"], transB=1),
        ],
        {"head": HEAD},
        20,
    ),
    "ReduceMean, MatMul, Add": (
        [
            node("ReduceMean", ["features", "axes"], ["flat"], keepdims=0),
            node("MatMul", ["flat", "head"], ["product"]),
            node("Add", ["product", "bias"], ["scores"]),
        ],
        {"head": HEAD.T.copy(), "axes": np.array([-1, -2])},
        20,
    ),
    "ReduceMean of opset 13, Gemm": (
        [
            node("ReduceMean", ["features"], ["flat"], keepdims=0, axes=[2, 3]),
            node("Gemm", ["flat", "head", "bias"], ["scores"]),
        ],
        {"head": HEAD.T.copy()},
        13,
    ),
    "AveragePool of the whole map, Reshape, Dropout": (
        [
            node("AveragePool", ["features"], ["pooled"], kernel_shape=[16, 16]),
            node("Reshape", ["pooled", "shape"], ["flat"]),
            node("Dropout", ["flat"], ["kept"]),
            node("Gemm", ["kept", "head", "bias"], ["scores"], transB=1),
        ],
        {"head": HEAD, "shape": np.array([-1, 6])},
        20,
    ),
}


@pytest.fixture(params=HEADS)
def pooled(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    """Return a network of one convolution, global average pooling and a linear layer, written in several ways."""
    body, weights, opset = HEADS[request.param]
    return write(tmp_path, [CONV, *body], {"filters": FILTERS, "bias": BIAS, **weights}, opset=opset)


def spot(row: int, column: int) -> npt.NDArray[np.uint8]:
    """Return a dark picture 16x16x1 with a bright square of 4x4 pixels."""
    picture = np.full((16, 16, 1), 20, np.uint8)
    picture[row : row + 4, column : column + 4] = 240
    return picture


def softmax(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return probabilities of scores [classes]."""
    exponents = np.exp(scores - scores.max())
    return np.asarray(exponents / exponents.sum(), np.float32)


def test_class_maps_add_up_to_the_scores(pooled: Opened) -> None:
    """The mean of each class's map, and the bias, are the network's very scores, however the head is written."""
    inner = explain.tap(pooled)
    picture = RANDOM.integers(0, 256, (1, 16, 16, 1), dtype=np.uint8)
    assert inner.plan.class_maps is not None
    maps = inner.run(picture)[inner.plan.class_maps]
    assert maps.shape == (1, 4, 16, 16)
    assert np.allclose(softmax(maps.mean(axis=(2, 3))[0] + BIAS), pooled.run(picture)[0], atol=1e-5)


def test_features_without_a_linear_layer_are_class_maps(tmp_path: Path) -> None:
    """Where the last maps are pooled and nothing else, they are the class maps."""
    body = [CONV, node("GlobalAveragePool", ["features"], ["pooled"]), node("Flatten", ["pooled"], ["scores"])]
    opened = write(tmp_path, body, {"filters": FILTERS[:4]})
    inner = explain.tap(opened)
    assert inner.plan.class_maps is not None
    picture = spot(2, 2)[np.newaxis]
    maps = inner.run(picture)[inner.plan.class_maps]
    assert np.allclose(softmax(maps.mean(axis=(2, 3))[0]), opened.run(picture)[0], atol=1e-5)


def test_scores_among_other_outputs(tmp_path: Path) -> None:
    """Where a graph gives other things before its scores, the scores are what is explained."""
    body, weights, opset = HEADS["GlobalAveragePool, Flatten, Gemm"]
    path = write(tmp_path, [CONV, *body], {"filters": FILTERS, "bias": BIAS, **weights}, opset=opset).file.path
    model = onnx.load(path)
    model.graph.output.insert(0, helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", 6, 16, 16]))
    onnx.save(model, path)
    opened = open_model(ModelFile(path, "several"))
    found = explain.explain(opened, explain.tap(opened), spot(2, 2))
    assert {evidence.method for evidence in found.evidence} == {"cam"}


def test_a_graph_that_takes_four_at_a_time(tmp_path: Path) -> None:
    """A graph of a fixed batch is explained as any other."""
    body, weights, opset = HEADS["GlobalAveragePool, Flatten, Gemm"]
    path = write(tmp_path, [CONV, *body], {"filters": FILTERS, "bias": BIAS, **weights}, opset=opset).file.path
    free = open_model(ModelFile(path, "free"))
    expected = explain.explain(free, explain.tap(free), spot(2, 2)).evidence[0]
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(model, path)
    fixed = open_model(ModelFile(path, "fixed"))
    found = explain.explain(fixed, explain.tap(fixed), spot(2, 2)).evidence[0]
    np.testing.assert_allclose(found.values, expected.values, atol=1e-5)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(
            [
                node("GlobalAveragePool", ["features"], ["pooled"]),
                node("Flatten", ["pooled"], ["flat"]),
                node("Relu", ["flat"], ["bent"]),
                node("Gemm", ["bent", "head", "bias"], ["scores"], transB=1),
            ],
            id="bent between pooling and the linear layer",
        ),
        pytest.param(
            [
                node("GlobalMaxPool", ["features"], ["pooled"]),
                node("Flatten", ["pooled"], ["flat"]),
                node("Gemm", ["flat", "head", "bias"], ["scores"], transB=1),
            ],
            id="the maximum instead of the mean",
        ),
        pytest.param(
            [
                node("AveragePool", ["features"], ["pooled"], kernel_shape=[8, 8], strides=[16, 16]),
                node("Flatten", ["pooled"], ["flat"]),
                node("Gemm", ["flat", "head", "bias"], ["scores"], transB=1),
            ],
            id="the mean of a part",
        ),
    ],
)
def test_other_heads_have_no_class_maps(body: list[NodeProto], tmp_path: Path) -> None:
    """A head in which a class is no weighed mean of the maps has no class maps; occlusion stands in."""
    opened = write(tmp_path, [CONV, *body], {"filters": FILTERS, "head": HEAD, "bias": BIAS})
    found = explain.explain(opened, explain.tap(opened), spot(4, 4), best=1)
    assert found.evidence[0].method == "occlusion"


def bright_spots(folder: Path) -> Opened:
    """Return a network whose first class is brightness: two maps, the picture and its negative, averaged."""
    filters = np.array([1, -1], np.float32).reshape(2, 1, 1, 1) / 4
    body = [
        node("Conv", ["maps", "filters"], ["features"], kernel_shape=[1, 1]),
        node("GlobalAveragePool", ["features"], ["pooled"]),
        node("Flatten", ["pooled"], ["flat"]),
        node("Gemm", ["flat", "head"], ["scores"], transB=1),
    ]
    return write(folder, body, {"filters": filters, "head": np.eye(2, dtype=np.float32)}, classes=2)


CORNERS = [(0, 0), (0, 12), (12, 0), (12, 12), (6, 3)]


@pytest.mark.parametrize(("row", "column"), CORNERS)
@pytest.mark.parametrize("method", ["cam", "occlusion"])
def test_evidence_lies_where_the_spot_is(method: explain.Method, row: int, column: int, tmp_path: Path) -> None:
    """For a network that counts brightness the most evidence lies on the bright spot, wherever it is."""
    opened = bright_spots(tmp_path)
    found = explain.explain(opened, explain.tap(opened), spot(row, column), classes=[0], method=method)
    down, across = found.evidence[0].peak
    assert row <= 16 * down <= row + 4
    assert column <= 16 * across <= column + 4


def corner_only(folder: Path) -> Opened:
    """Return a linear network that looks at the 4x4 pixels of the lower left corner and nowhere else."""
    layer = np.zeros((16, 16, 2), np.float32)
    layer[12:, :4, 0] = 1 / 1000
    body = [node("Flatten", ["maps"], ["flat"]), node("MatMul", ["flat", "layer"], ["scores"])]
    return write(folder, body, {"layer": layer.reshape(256, 2)}, classes=2)


def test_occlusion_finds_what_is_looked_at(tmp_path: Path) -> None:
    """For a network that looks at one corner only, hiding that corner counts and hiding the opposite one does not."""
    opened = corner_only(tmp_path)
    picture = np.full((16, 16, 1), 10, np.uint8)
    picture[12:, :4] = 200
    picture[:4, 12:] = 250
    [evidence] = explain.explain(opened, explain.tap(opened), picture, classes=[0]).evidence
    down, across = evidence.peak
    assert down > 12 / 16
    assert across < 4 / 16
    assert np.abs(evidence.values[:4, 12:]).max() < 1e-6


def test_hiding_nothing_is_no_evidence(tmp_path: Path) -> None:
    """On a picture of one colour the square changes nothing, and no place is evidence."""
    opened = corner_only(tmp_path)
    assert np.abs(explain.occlusion(opened, np.full((16, 16, 1), 77, np.uint8))).max() < 1e-6


def test_class_maps_where_there_are_none(tmp_path: Path) -> None:
    """Asking for class activation maps where the head allows none is an error that names occlusion."""
    opened = corner_only(tmp_path)
    with pytest.raises(SetupError, match="--method occlusion"):
        explain.explain(opened, explain.tap(opened), spot(0, 0), method="cam")


def test_stages_of_lenet() -> None:
    """The bundled LeNet-5 has the paper's C1, S2, C3 and S4: 6 maps of 28 and 14, 16 of 10 and 5."""
    opened = open_model(find("lenet5-mnist"))
    picture = image.decode(opened.manifest.golden_samples[0].picture, opened.manifest.preprocessing, max_pixels=10**6)
    found = explain.explain(opened, explain.tap(opened), picture)
    assert [stage.values.shape for stage in found.stages] == [(6, 28, 28), (6, 14, 14), (16, 10, 10), (16, 5, 5)]
    assert [stage.operators[0] for stage in found.stages] == ["Conv", "AveragePool", "Conv", "AveragePool"]
    assert found.filters is not None
    assert found.filters.shape == (6, 1, 5, 5)
    assert [one.method for one in found.evidence] == ["occlusion"] * 3
    assert found.evidence[0].label == opened.manifest.labels[opened.manifest.golden_samples[0].label]


def test_feature_maps_are_what_the_network_computes(tmp_path: Path) -> None:
    """The maps of a stage are the convolution's own values, and the filters its weights."""
    opened = bright_spots(tmp_path)
    picture = RANDOM.integers(0, 256, (16, 16, 1), dtype=np.uint8)
    found = explain.explain(opened, explain.tap(opened), picture)
    assert np.allclose(found.stages[0].values[0], picture[:, :, 0] / 4)
    assert np.allclose(found.stages[0].values[1], picture[:, :, 0] / -4)
    assert found.filters is not None
    assert found.filters.ravel().tolist() == [0.25, -0.25]


def test_a_stage_of_a_residual_network_is_its_last_sum(tmp_path: Path) -> None:
    """Where a residual block halves the resolution, its inner tensors are no stage: the shortcut goes around them."""
    weights = {
        "w1": np.ones((3, 1, 1, 1), np.float32),
        "w2": np.ones((5, 3, 1, 1), np.float32),
        "w3": np.ones((7, 5, 1, 1), np.float32),
        "w4": np.ones((7, 3, 1, 1), np.float32),
        "head": np.ones((2, 7), np.float32),
    }
    body = [
        node("Conv", ["maps", "w1"], ["stem"], kernel_shape=[1, 1]),
        node("Conv", ["stem", "w2"], ["inner"], kernel_shape=[1, 1]),
        node("Conv", ["inner", "w3"], ["deep"], kernel_shape=[1, 1], strides=[2, 2]),
        node("Conv", ["stem", "w4"], ["shortcut"], kernel_shape=[1, 1], strides=[2, 2]),
        node("Add", ["deep", "shortcut"], ["sum"]),
        node("Relu", ["sum"], ["out"]),
        node("GlobalAveragePool", ["out"], ["pooled"]),
        node("Flatten", ["pooled"], ["flat"]),
        node("Gemm", ["flat", "head"], ["scores"], transB=1),
    ]
    opened = write(tmp_path, body, weights, classes=2)
    inner = explain.tap(opened)
    values = inner.run(spot(0, 0)[np.newaxis])
    assert [values[stage.output].shape[1:] for stage in inner.plan.stages] == [(3, 16, 16), (7, 8, 8)]
    assert inner.plan.stages[1].operators == ("3 Conv", "Add", "Relu")


def test_a_network_without_convolutions(tmp_path: Path) -> None:
    """A network without convolutions has no filters and no maps, and is explained by occlusion all the same."""
    opened = corner_only(tmp_path)
    found = explain.explain(opened, explain.tap(opened), spot(12, 0))
    assert (found.filters, found.stages) == (None, ())
    assert "Feature maps" not in explain_page.render(found, "linear", "spot.png")


def test_the_file_beside_the_model_is_used(pooled: Opened) -> None:
    """explain.onnx beside a model is what is run, and says the same as one made on the spot."""
    made = explain.tap(pooled)
    path = pooled.file.path.with_name("explain.onnx")
    written = explain_graph.write(pooled.file.path, path)
    assert plan.read_plan(path) == written == made.plan
    picture = spot(3, 9)[np.newaxis]
    beside = explain.tap(pooled).run(picture)
    assert all(np.array_equal(values, beside[name]) for name, values in made.run(picture).items())
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["explain.onnx", "model.onnx"]


def test_the_file_of_another_model_is_refused(tmp_path: Path) -> None:
    """An explain.onnx that gives other probabilities than model.onnx is an error that says what to do."""
    opened = bright_spots(tmp_path / "1")
    other = corner_only(tmp_path / "2")
    explain_graph.write(other.file.path, opened.file.path.with_name("explain.onnx"))
    with pytest.raises(ModelRejected, match="of another model: remove it, or export again"):
        explain.explain(opened, explain.tap(opened), spot(0, 0))


def test_a_file_that_is_no_explain_graph(tmp_path: Path) -> None:
    """A model under the name of explain.onnx is an error that says how to make one."""
    opened = bright_spots(tmp_path)
    opened.file.path.with_name("explain.onnx").write_bytes(opened.file.path.read_bytes())
    with pytest.raises(ModelRejected, match="saccade export --explain"):
        explain.tap(opened)


def test_the_serving_file_stays_as_it_was(pooled: Opened) -> None:
    """Explaining changes nothing in model.onnx."""
    before = pooled.file.path.read_bytes()
    explain.explain(pooled, explain.tap(pooled), spot(0, 0))
    assert pooled.file.path.read_bytes() == before


def test_a_picture_that_is_none(tmp_path: Path) -> None:
    """A file that is no picture is an error with its path and the reason."""
    opened = open_model(ModelFile(write_model(tmp_path), "linear"))
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(SetupError, match=r"bad\.png .*10 bytes"):
        explain.read_picture(opened, tmp_path / "bad.png")


def test_labels_are_escaped(tmp_path: Path) -> None:
    """A label or file name that is HTML is shown as text."""
    opened = bright_spots(tmp_path)
    found = explain.explain(opened, explain.tap(opened), spot(0, 0))
    page = explain_page.render(found, "<b>model</b>", "<script>.png")
    assert "<script" not in page
    assert "&lt;b&gt;model" in page


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    """A picture whose name is no UTF-8 is explained on a page like others."""
    opened = bright_spots(tmp_path)
    found = explain.explain(opened, explain.tap(opened), spot(0, 0))
    explain_page.write(found, tmp_path / "out.html", model="m", picture=os.fsdecode(b"caf\xe9.png"))
    assert r"caf\udce9.png" in (tmp_path / "out.html").read_text()


def test_a_picture_of_it_all(tmp_path: Path) -> None:
    """With a .png output all of it is one picture that any program can read."""
    opened = bright_spots(tmp_path)
    found = explain.explain(opened, explain.tap(opened), spot(0, 0), best=2)
    explain_page.write(found, tmp_path / "out.png", model="m", picture="p")
    drawn = explain_page.drawn(found)
    spec = Preprocessing(height=drawn.shape[0], width=drawn.shape[1], channels=3)
    assert np.array_equal(image.decode((tmp_path / "out.png").read_bytes(), spec, max_pixels=10**7), drawn)


def test_resizing() -> None:
    """At twice the size a step from 0 to 4 becomes 0, 1, 3, 4; at the same size nothing changes."""
    step = np.array([[0, 4]], np.float32)
    assert tiles.resized(step, 1, 4).tolist() == [[0, 1, 3, 4]]
    assert np.array_equal(tiles.resized(step, 1, 2), step)


@pytest.mark.parametrize(("count", "shape"), [(1, (64, 64)), (17, (131, 1069)), (100, (265, 1069))])
def test_grids(count: int, shape: tuple[int, int]) -> None:
    """Maps stand in rows of 16, at most 64 of them, tiles of 64 pixels with 3 between them."""
    assert tiles.maps_grid(np.zeros((count, 8, 8), np.float32)).shape == (*shape, 3)


@pytest.mark.parametrize("size", [(200, 100), (100, 200), (65, 65), (1, 1)])
def test_tiles_fit(size: tuple[int, int]) -> None:
    """Maps of any size are drawn with their longer side at most 64 pixels."""
    assert max(tiles.maps_grid(np.zeros((1, *size), np.float32)).shape[:2]) == 64


def test_heat_is_brightest_at_the_peak() -> None:
    """Over a black picture the brightest pixel is where the evidence is largest."""
    values = np.zeros((4, 4), np.float32)
    values[3, 1] = 2
    drawn = tiles.heat(np.zeros((8, 8, 1), np.uint8), values, signed=True).sum(axis=2)
    assert int(drawn.argmax()) in {8 * row + column for row in (6, 7) for column in (2, 3)}
