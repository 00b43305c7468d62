import json
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export.foreign import GOLDEN_SAMPLES, export_file, write_manifest
from export.presets import PRESETS
from service import image
from service.errors import ModelRejected, SetupError
from service.loading import load_model
from service.manifest import KEY, metadata, read_manifest
from service.metrics import Metrics
from service.model import Model, Options
from service.session import Session
from tests import processes
from tests.foreign_models import CLASSES, SIDE, layer, samples, write_foreign
from tests.onnx_models import probabilities


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a foreign file with a name of its own."""
    return write_foreign(tmp_path / "found", names=("gpu_0/data_0", "y"), batch="N").rename(tmp_path / "net.onnx")


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Return a file of labels."""
    path = tmp_path / "labels.txt.list"
    path.write_text("ant\nbee\ncow\ndog\n")
    return path


def loaded(version: Path) -> Model:
    """Return a published version, loaded; nothing of it runs on."""
    model = load_model(
        version / "model.onnx", "net", 1, Options("cpu", intra_op_threads=1, max_batch_size=4), Metrics()
    )
    model.drain(0)
    return model


def test_says_all_of_itself(source: Path, labels: Path, tmp_path: Path) -> None:
    """The published file is verified, says labels and preparation, and leaves nothing to infer."""
    done = export_file(source, tmp_path / "models", labels=labels, preset="imagenet-caffe")
    model = loaded(done.version)
    spec = model.manifest.preprocessing
    assert done.version == tmp_path / "models/net/1"
    assert (model.facts.verified, model.facts.inferred, model.notice) == (True, (), "")
    assert model.manifest.labels == ("ant", "bee", "cow", "dog")
    assert {"scale": spec.scale, "mean": spec.mean, "std": spec.std, "order": spec.order} == (
        PRESETS["imagenet-caffe"].numbers
    )
    assert (spec.fit, spec.crop_fraction, spec.layout) == ("crop", 0.875, "NCHW")
    assert (model.manifest.scores, len(model.manifest.golden_samples)) == ("logits", GOLDEN_SAMPLES)


def test_graph_stays(source: Path, tmp_path: Path) -> None:
    """All but the manifest stays byte for byte."""
    done = export_file(source, tmp_path / "models")
    assert (done.version / "model.onnx").read_bytes().startswith(source.read_bytes())
    model = onnx.load(done.version / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [entry.key for entry in model.metadata_props] == [KEY]


def test_again(source: Path, tmp_path: Path) -> None:
    """A file that carries a manifest gets the new one instead; other metadata stays."""
    proto = onnx.load(source)
    helper.set_model_props(proto, {"author": "somebody"})
    onnx.save(proto, source)
    once = export_file(source, tmp_path / "models").version / "model.onnx"
    twice = export_file(once, tmp_path / "models", name="net", preset="cifar10").version / "model.onnx"
    assert twice.parent.name == "2"
    assert set(metadata(twice)) == {"author", KEY}
    assert len(onnx.load(twice).metadata_props) == 2
    assert read_manifest(twice).preprocessing.fit == "stretch"


def test_what_was_inferred(source: Path, tmp_path: Path) -> None:
    """What nobody says is inferred, told, and written down."""
    done = export_file(source, tmp_path / "models")
    assert "labels class 0 to class 3" in done.inferred
    assert "RGB pixels 0 to 1 with ImageNet's mean and deviation" in done.inferred
    assert loaded(done.version).facts.inferred == ()


def test_neighbours_are_heard(tmp_path: Path) -> None:
    """What manifest.json beside the file says is written into it."""
    path = write_foreign(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"labels": ["a", "b", "c", "d"], "data": "birds"}))
    manifest = read_manifest(export_file(path, tmp_path / "models", name="net").version / "model.onnx")
    assert (manifest.labels, manifest.data) == (("a", "b", "c", "d"), "birds")


def test_golden_samples_are_its_own_answers(source: Path, tmp_path: Path) -> None:
    """The golden samples hold what the network makes of the pictures in them, prepared as the manifest says."""
    manifest = read_manifest(export_file(source, tmp_path / "models", preset="imagenet").version / "model.onnx")
    spec, numbers = manifest.preprocessing, PRESETS["imagenet"].numbers
    for sample in manifest.golden_samples:
        pixels = image.decode(sample.picture, spec, max_pixels=1 << 20)
        given = (pixels * numbers["scale"] - np.array(numbers["mean"])) / np.array(numbers["std"])
        (expected,) = probabilities(given.transpose(2, 0, 1)[np.newaxis].astype(np.float32), layer())
        np.testing.assert_allclose(sample.probabilities, expected, atol=1e-5)
        assert sample.label == int(np.argmax(sample.probabilities))


def test_golden_samples_catch_other_weights(source: Path, tmp_path: Path) -> None:
    """A published file whose weights are changed afterwards is not served."""
    done = export_file(source, tmp_path / "models")
    path = done.version / "model.onnx"
    proto = onnx.load(path)
    for tensor in proto.graph.initializer:
        if tensor.name == "layer":
            tensor.CopyFrom(onnx.numpy_helper.from_array(layer() * np.float32(1.01), "layer"))
    onnx.save(proto, path)
    with pytest.raises(ModelRejected, match="golden sample"):
        loaded(done.version)


def test_what_fails_its_last_check(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy whose golden samples do not come true is not published."""
    (made := tmp_path / "made").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(made))  # where the copy is made

    def say(text: str) -> None:
        if text != "checking that it loads":
            return
        (copy,) = made.rglob("model.onnx")
        manifest = read_manifest(copy)
        first, *others = manifest.golden_samples
        swapped = first.model_copy(update={"probabilities": first.probabilities[::-1]})
        write_manifest(source, copy, manifest.model_copy(update={"golden_samples": (swapped, *others)}))

    with pytest.raises(ModelRejected, match="golden sample 0"):
        export_file(source, tmp_path / "models", say=say)
    assert not (tmp_path / "models").exists()


def test_external_files(tmp_path: Path) -> None:
    """External weight files are published with the model."""
    path = write_foreign(tmp_path / "found", external="weights/w.bin")
    done = export_file(path, tmp_path / "models", name="net")
    found = sorted(str(file.relative_to(done.version)) for file in done.version.rglob("*") if file.is_file())
    assert found == ["model.onnx", "weights/w.bin"]
    assert loaded(done.version).facts.verified


def test_free_size(tmp_path: Path) -> None:
    """A graph that leaves its size free takes that of manifest.json, else the preset's."""
    path = write_foreign(tmp_path, side="S", batch="N")
    (tmp_path / "manifest.json").write_text(json.dumps({"preprocessing": {"height": SIDE, "width": SIDE}}))
    spec = loaded(export_file(path, tmp_path / "models", name="net", preset="imagenet").version).manifest.preprocessing
    assert (spec.height, spec.width) == (SIDE, SIDE)


@pytest.mark.parametrize(("preset", "kept"), [("", True), ("cifar10", False)])
def test_figures_of_other_pictures_are_let_go(preset: str, kept: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a parameter
    """What a file says of its accuracy is not so when it is given its pictures otherwise."""
    first = export_file(write_foreign(tmp_path, batch="N"), tmp_path / "models", name="net", preset="imagenet").version
    path = tmp_path / "measured.onnx"
    manifest = read_manifest(first / "model.onnx").model_copy(update={"accuracy": 0.5})
    write_manifest(first / "model.onnx", path, manifest)
    again = export_file(path, tmp_path / "models", name="net", preset=preset).version
    assert read_manifest(again / "model.onnx").accuracy == (0.5 if kept else None)


def test_a_size_that_it_cannot_run(tmp_path: Path) -> None:
    """A graph that leaves its size free and cannot run the assumed one is told in words, with what to say."""
    path = write_foreign(tmp_path, side="S", batch="N")
    with pytest.raises(ModelRejected, match=r"cannot run a picture of 224x224: .*say height and width"):
        export_file(path, tmp_path / "models", name="net")


def test_bytes(tmp_path: Path) -> None:
    """Of a graph that takes bytes a preset says only what part of a picture is kept."""
    path = write_foreign(tmp_path, datatype=TensorProto.UINT8, layout="NHWC", gain=1.0)
    done = export_file(path, tmp_path / "models", name="net", preset="imagenet")
    spec = loaded(done.version).manifest.preprocessing
    assert (spec.fit, spec.scale, spec.mean) == ("crop", None, None)


@pytest.mark.parametrize("name", ["", "liveness", "two words", "größe", "-a"])
def test_bad_name(name: str, tmp_path: Path) -> None:
    """A model that has no name, or one that cannot be served, is told to get one."""
    with pytest.raises(SetupError, match="say --name"):
        export_file(write_foreign(tmp_path), tmp_path / "models", name=name)


def test_bad_preset(source: Path, tmp_path: Path) -> None:
    """An unknown preset is told with those there are, and nothing is published."""
    with pytest.raises(SetupError, match="no preset 'x'; there are: imagenet, imagenet-v2, imagenet-caffe, cifar10"):
        export_file(source, tmp_path / "models", preset="x")
    assert not (tmp_path / "models").exists()


def test_preset_of_other_channels(source: Path, tmp_path: Path) -> None:
    """A preset for grey pictures does not fit a network for colour."""
    with pytest.raises(ModelRejected, match="mean has 1 values, the input 3 channels"):
        export_file(source, tmp_path / "models", preset="mnist")


def test_labels_do_not_fit(source: Path, tmp_path: Path) -> None:
    """Labels that are not as many as the classes are refused, and nothing is published."""
    (tmp_path / "few.txt").write_text("ant\nbee\n")
    with pytest.raises(ModelRejected, match=f"gives {CLASSES} classes, the manifest has 2 labels"):
        export_file(source, tmp_path / "models", labels=tmp_path / "few.txt")
    assert not (tmp_path / "models").exists()


def test_rewritten_manifest_keeps_answers(source: Path, tmp_path: Path) -> None:
    """A large manifest is written whole, and the graph behind it still answers."""
    done = export_file(source, tmp_path / "models")
    manifest = read_manifest(done.version / "model.onnx").model_copy(update={"data": "x" * 300_000})
    write_manifest(done.version / "model.onnx", tmp_path / "model.onnx", manifest)
    assert read_manifest(tmp_path / "model.onnx") == manifest
    session = Session(tmp_path / "model.onnx", "cpu", intra_op_threads=1, max_batch_size=2)
    best = session.run(samples(2)).argmax(axis=1).tolist()
    assert best == probabilities(samples(2), layer()).argmax(axis=1).tolist()


def test_command(source: Path, labels: Path, tmp_path: Path) -> None:
    """`saccade export FILE.onnx` publishes, tells what was inferred, and says what next."""
    arguments = [str(source), "--labels", str(labels), "--repository", str(tmp_path / "models")]
    done = processes.run("export", *arguments)
    assert (done.returncode, (tmp_path / "models/net/1/model.onnx").is_file()) == (0, True), done.stderr
    assert "8 golden samples; next: saccade serve --repository" in done.stdout
    assert "inferred: RGB pixels 0 to 1 with ImageNet's mean and deviation" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["README.md"], 1, "not a whole ONNX file"),
        (["tests", "--labels", "README.md"], 2, "--labels and --preset go with --weights or an ONNX file"),
        (["nowhere.onnx"], 2, "no training run nowhere.onnx"),
    ],
)
def test_command_used_wrongly(arguments: list[str], code: int, text: str) -> None:
    """What cannot be exported is a sentence, and no trace of Python."""
    done = processes.run("export", *arguments)
    assert done.returncode == code
    assert text in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr
