"""Foreign files through the whole of loading: from a file without a word about it to a model that answers."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from service import image
from service.errors import InvalidInput, ModelRejected
from service.foreign import CAFFE, CIFAR10, IMAGENET
from service.loading import load_model
from service.manifest import sha256
from service.metrics import Metrics
from service.model import Model, Options
from tests.conftest import Lines
from tests.foreign_models import CLASSES, SIDE, layer, relocate, samples, write_foreign
from tests.onnx_models import probabilities
from tests.processes import mapped_files

Load = Callable[..., Model]

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
"""Classic networks as the ONNX model zoo has them, with constant weights; they come with the onnx package."""
PICTURES = np.random.default_rng(3).integers(0, 256, (5, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    """Return what loads a file, one that it writes where none is given; all are drained in the end."""
    models = []

    def write_and_load(path: Path | None = None, **written: Any) -> Model:  # noqa: ANN401
        path = path or write_foreign(tmp_path, **written)
        models.append(load_model(path, "net", 1, Options("cpu", intra_op_threads=1, max_batch_size=4), Metrics()))
        return models[-1]

    yield write_and_load
    for model in models:
        model.drain(0)


def rows(model: Model, given: list[Any]) -> np.ndarray:
    """Return the probabilities of all classes, in order of the classes."""
    answer = model.classify(given, top_k=10_000)
    ordered = [sorted(best, key=lambda category: category.index) for best in answer.classifications]
    return np.array([[category.probability for category in best] for best in ordered])


def normalised(pictures: np.ndarray, numbers: dict[str, Any]) -> np.ndarray:
    """Return float32 samples [N, channels, height, width] by the formula as it is written."""
    ordered = pictures[..., ::-1] if numbers.get("order") == "BGR" else pictures
    floats = (ordered * numbers["scale"] - np.array(numbers["mean"])) / np.array(numbers["std"])
    return np.asarray(floats.transpose(0, 3, 1, 2), np.float32)


@pytest.mark.parametrize(
    "written",
    [
        {},
        {"batch": "N"},
        {"batch": 3},
        {"ones": True},
        {"ones": True, "last": ["Softmax"], "opset": 9, "ir": 3, "listed": True},
        {"names": ("gpu_0/data_0", "gpu_0/softmax_1"), "last": ["Softmax"]},
        {"opset": 7, "ir": 3, "listed": True, "names": ("Input3", "Plus214_Output_0")},
        {"ir": 8, "listed": True},
        {"external": "weights/w.bin"},
        {"batch": "N", "inside": 1},
    ],
    ids=["fixed", "free", "three", "ones", "squeezenet", "slashes", "old", "listed", "external", "inside"],
)
def test_samples(written: dict[str, Any], load: Load) -> None:
    """Samples as the graph takes them get the bare arithmetic's probabilities, however the file is written."""
    given = samples(7)
    np.testing.assert_allclose(rows(load(**written), [*given]), probabilities(given, layer()), atol=1e-6)


@pytest.mark.parametrize(
    ("said", "producer", "numbers"),
    [({"preprocessing": CIFAR10}, "", CIFAR10), ({}, "", IMAGENET), ({}, "onnx-caffe2", CAFFE)],
    ids=["said", "inferred", "Caffe's"],
)
def test_pictures(said: dict[str, Any], producer: str, numbers: dict[str, Any], tmp_path: Path, load: Load) -> None:
    """Pictures are prepared by what was said or inferred, and run together with samples."""
    gain = 1.0 if numbers is CAFFE else 30.0
    path = write_foreign(tmp_path, batch="N", gain=gain, producer=producer)
    (tmp_path / "manifest.json").write_text(json.dumps(said))
    model = load(path)
    prepared = normalised(PICTURES, numbers)
    raw = image.Pixels(SIDE, SIDE, 3, PICTURES[1].tobytes())
    given = [image.encode_png(PICTURES[0]), raw, prepared[2]]
    np.testing.assert_allclose(rows(model, given), probabilities(prepared[:3], layer(gain=gain)), atol=1e-5)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_bytes(layout: str, load: Load) -> None:
    """A graph that takes bytes gets the pixels as they are, in its layout."""
    model = load(layout=layout, datatype=TensorProto.UINT8, gain=1.0, batch="N")
    placed = PICTURES if layout == "NHWC" else PICTURES.transpose(0, 3, 1, 2)
    expected = probabilities(np.ascontiguousarray(placed), layer(gain=1.0))
    np.testing.assert_allclose(rows(model, [image.encode_png(p) for p in PICTURES]), expected, atol=1e-6)
    np.testing.assert_allclose(rows(model, [*placed]), expected, atol=1e-6)


def test_half_precision(load: Load) -> None:
    """A graph that takes float16 gets float16, of samples and of pictures."""
    model = load(datatype=TensorProto.FLOAT16)
    given = samples(3).astype(np.float16)
    assert (model.input.datatype, model.facts.precision) == ("FP16", "fp16")
    np.testing.assert_allclose(rows(model, [*given]), probabilities(given, layer()), atol=1e-6)
    assert len(model.classify([image.encode_png(PICTURES[0])]).classifications) == 1


def test_grey(load: Load) -> None:
    """A grey float graph gets pixels from 0 to 255."""
    model = load(channels=1, gain=1.0)
    grey = PICTURES[:, :, :, :1]
    given = [image.encode_png(picture) for picture in grey]
    expected = probabilities(grey.transpose(0, 3, 1, 2), layer(1, 1.0))
    np.testing.assert_allclose(rows(model, given), expected, atol=1e-6)


def test_facts(load: Load) -> None:
    """A foreign model shows its own input and the output that all models show, and that it is not verified."""
    model = load(names=("gpu_0/data_0", "y"), graph_name="net_1")
    assert (model.input.name, model.input.datatype, model.input.shape, model.input.layout) == (
        "gpu_0/data_0",
        "FP32",
        (-1, 3, SIDE, SIDE),
        "NCHW",
    )
    assert (model.output.name, model.output.shape) == ("probabilities", (-1, CLASSES))
    assert (model.max_batch_size, model.facts.verified, model.manifest.architecture) == (1, False, "net_1")


def test_said_once(load: Load, lines: Lines) -> None:
    """What was inferred is one line in the log, and stands in the notice."""
    model = load()
    (line,) = lines()
    assert (line["event"], line["model"], line["version"]) == ("manifest inferred", "net", 1)
    for finding in ("its scores are logits", "labels class 0 to class 3", "RGB pixels 0 to 1 with ImageNet's mean"):
        assert finding in line["inferred"]
        assert finding in model.notice
    assert model.notice.startswith("unverified: the file carries no golden samples; inferred, unless manifest.json or")


def test_neighbours_override(tmp_path: Path, load: Load) -> None:
    """What manifest.json and labels.txt beside the file say is no longer inferred."""
    path = write_foreign(tmp_path)
    said = {"scores": "logits", "preprocessing": {"scale": 1.0, "fit": "stretch"}, "architecture": "mine"}
    (tmp_path / "manifest.json").write_text(json.dumps(said))
    (tmp_path / "labels.txt").write_text("ant\nbee\ncow\ndog\n")
    model = load(path)
    assert model.facts.inferred == ()
    assert (model.manifest.labels, model.manifest.architecture) == (("ant", "bee", "cow", "dog"), "mine")


def test_labels_do_not_fit(tmp_path: Path, load: Load) -> None:
    """As many labels as classes are needed."""
    path = write_foreign(tmp_path)
    (tmp_path / "labels.txt").write_text("ant\nbee\n")
    with pytest.raises(ModelRejected, match="the graph gives 4 classes, the manifest has 2 labels"):
        load(path)


def test_size_is_free(tmp_path: Path, load: Load) -> None:
    """A graph that leaves its size free runs at the size that manifest.json says."""
    path = write_foreign(tmp_path, side="S", batch="N")
    (tmp_path / "manifest.json").write_text(json.dumps({"preprocessing": {"height": SIDE, "width": SIDE}}))
    np.testing.assert_allclose(rows(load(path), [*samples(2)]), probabilities(samples(2), layer()), atol=1e-6)


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ({"last": ["Sigmoid"]}, "its last operator is Sigmoid"),
        ({"last": ["Relu", "Sqrt"], "gain": -np.inf}, "not finite"),
    ],
)
def test_rejected(written: dict[str, Any], text: str, load: Load) -> None:
    """A file that cannot be served as a classifier is rejected with the reason."""
    with pytest.raises(ModelRejected, match=text):
        load(**written)


def test_external_files_are_checked_first(tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that names weights outside its folder is rejected before ONNX Runtime sees it."""
    path = write_foreign(tmp_path, external="w.bin")
    relocate(path, "../w.bin")
    monkeypatch.setattr(onnxruntime, "InferenceSession", None)
    with pytest.raises(ModelRejected, match=r"'\.\./w\.bin' must be a relative path"):
        load(path)


def test_sha256_covers_external_files(tmp_path: Path, load: Load) -> None:
    """The SHA-256 of a model is that of its file and of its weights."""
    model = load(external="w.bin")
    assert model.facts.sha256 == sha256(tmp_path / "model.onnx", tmp_path / "w.bin")
    assert model.facts.sha256 != sha256(tmp_path / "model.onnx")


def test_external_weights_are_in_memory(tmp_path: Path, load: Load) -> None:
    """Weights that are overwritten change no answer of what was loaded, and cutting them short harms nobody."""
    model = load(external="w.bin", begins=("Mul", np.full((3, SIDE, SIDE), 2.0)))
    before = rows(model, [*samples(2)])
    with (tmp_path / "w.bin").open("r+b") as file:
        file.write(bytes((tmp_path / "w.bin").stat().st_size))
    assert not [mapped for mapped in mapped_files(os.getpid()) if str(tmp_path) in mapped]
    np.testing.assert_array_equal(rows(model, [*samples(2)]), before)


@pytest.mark.parametrize(
    ("sample", "text"),
    [
        (np.zeros((3, SIDE, 9), np.float32), r"images\[0\]: is float32 \[3, 8, 9\]; data_0 takes FP32 \[3, 8, 8\]"),
        (np.full((3, SIDE, SIDE), np.nan, np.float32), r"images\[0\]: holds values that are not finite"),
    ],
)
def test_wrong_sample(sample: np.ndarray, text: str, load: Load) -> None:
    """A sample that the graph does not take is its caller's fault, and marks no model."""
    model = load()
    with pytest.raises(InvalidInput, match=text):
        model.classify([sample])
    assert "not finite" not in model.notice


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet", "inception_v1", "densenet121"])
def test_model_zoo(name: str, load: Load) -> None:
    """Networks of the ONNX model zoo, without a file beside them, give the bare session's answers."""
    path = LIGHT / f"light_{name}.onnx"
    model, given = load(path), samples(2, 3, 224, 224)
    bare = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (scores,) = bare.run(None, {model.input.name: given[:1]})
    expected = scores.reshape(1, -1)
    if name == "densenet121":  # the only one that gives logits
        expected = np.exp(expected) / np.exp(expected).sum()
    np.testing.assert_allclose(rows(model, [*given]), expected.repeat(2, 0), atol=1e-6)
