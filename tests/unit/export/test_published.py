import copy
import dataclasses
import importlib.metadata
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import typer

from export import cli, drawn, presets, published
from export.architectures import find
from export.checkpoint import Classifier
from export.published import Published
from service import image
from service.errors import ModelRejected, SetupError
from service.loading import load_model
from service.manifest import Preprocessing, read_manifest, sha256
from service.metrics import Metrics
from service.model import Options
from tests.networks import lively


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a weight file of an All-CNN-C for ten classes."""
    path = tmp_path_factory.mktemp("weights") / "allcnn.pth"
    torch.save(lively(find("all-cnn-c").build(3, 10), 3, 32).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of ten labels, one of them twice."""
    path = tmp_path_factory.mktemp("labels") / "labels.txt"
    path.write_text("\ufeffone\r\ntwo\r\ncrane\r\nfour\r\ncrane\r\nsix\r\nseven\r\neight\r\nnine\r\nß\r\n", "utf-8")
    return path


@pytest.fixture(scope="module")
def loaded(weights: Path, labels: Path) -> Published:
    """Return the network of the weight file."""
    return published.load("all-cnn-c", weights, labels=labels, preset="cifar10", accuracy=0.9092)


@pytest.fixture(scope="module")
def file(loaded: Published, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the model file of the network."""
    path = tmp_path_factory.mktemp("file") / "model.onnx"
    assert not published.write(loaded, path).notes
    return path


def test_manifest(file: Path, weights: Path) -> None:
    """The manifest says which weights they are, how pictures are prepared, and that the accuracy was not measured."""
    manifest = read_manifest(file)
    assert manifest.architecture == "all-cnn-c"
    assert manifest.labels[2:5] == ("crane", "four", "crane")
    assert manifest.preprocessing == Preprocessing(height=32, width=32, channels=3)
    assert manifest.data == (
        f"weights allcnn.pth, SHA-256 {sha256(weights)}; preset cifar10; "
        f"accuracy as stated by --accuracy, not measured; golden samples drawn"
    )
    assert manifest.accuracy == 0.9092
    assert not manifest.recipe
    assert manifest.versions["torch"] == importlib.metadata.version("torch")


def test_golden_samples_test_something(file: Path) -> None:
    """The golden samples are pictures of no network's size whose probabilities differ by tenths."""
    samples = read_manifest(file).golden_samples
    assert len(samples) == published.SAMPLES >= 4
    assert np.ptp([sample.probabilities for sample in samples], axis=0).max() > 0.1
    assert [sample.label for sample in samples] == [int(np.argmax(sample.probabilities)) for sample in samples]


def test_served(file: Path) -> None:
    """The server takes the file, verified."""
    model = load_model(file, "zoo", 1, Options(provider="cpu", max_batch_size=2), Metrics())
    try:
        assert model.facts.verified
        assert len(model.classify([image.encode_png(drawn.pictures(1, 3)[0])]).classifications[0]) == 5
    finally:
        model.drain(1)


def test_no_accuracy(weights: Path, labels: Path) -> None:
    """Without --accuracy the manifest states none."""
    plain = published.load("all-cnn-c", weights, labels=labels, preset="cifar10")
    manifest = published.make_manifest(plain, [], [])
    assert manifest.accuracy is None
    assert "accuracy" not in manifest.data


def test_flat_answers_are_noted(loaded: Published, tmp_path: Path) -> None:
    """Where the answers hardly depend on the picture, a note says that the golden samples prove little."""
    flat = copy.deepcopy(loaded.network)
    flat.get_parameter("features.19.weight").data *= 1e-6
    [note] = published.write(replace(loaded, network=flat), tmp_path / "model.onnx").notes
    assert "proves little" in note


class Forgetful(Classifier):
    """Computes what the network does, and tells other probabilities of it."""

    def predict(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return those of the wrong classes."""
        return super().predict(images)[:, ::-1]


class Mistold(Published):
    """A network whose golden samples will be wrong."""

    def classifier(self) -> Classifier:
        """Return what is served, as it is not."""
        return Forgetful(self.network, self.mean, self.std).eval()


def test_what_fails_its_last_check(loaded: Published, tmp_path: Path) -> None:
    """A file that computes what the network does, and whose golden samples do not come true, is refused."""
    fields = {field.name: getattr(loaded, field.name) for field in dataclasses.fields(loaded)}
    with pytest.raises(ModelRejected, match="golden sample 0"):
        published.write(Mistold(**fields), tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"one\ntwo\n\nfour\n", "line 3 is empty"),
        (b"\none\ntwo", "line 1 is empty"),
        (b"one\n", "fewer than two"),
        (b"", "fewer than two"),
        (b"\xff\xfe", "not UTF-8"),
        (b"one\ntwo\nthree\n", r"3 classes .*expected \(3, 192, 1, 1\), got \(10, 192, 1, 1\)"),
    ],
)
def test_broken_labels(weights: Path, tmp_path: Path, content: bytes, words: str) -> None:
    """Labels that cannot be read, or are not as many as the weights have classes, are an error that says where."""
    path = tmp_path / "broken.txt"
    path.write_bytes(content)
    with pytest.raises(SetupError, match=words) as caught:
        published.load("all-cnn-c", weights, labels=path, preset="cifar10")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "preset", "words"),
    [
        ("all-cnn-c", "cifar", "no preset 'cifar'; there are: imagenet, imagenet-v2, imagenet-caffe, cifar10, mnist"),
        ("all-cnn-c", "imagenet", "preset imagenet gives 224x224 pixels, the network takes 32x32; use cifar10, mnist"),
        ("all-cnn-c", "mnist", "does not fit all-cnn-c with 10 classes .* and 1 channels .preset mnist"),
        ("vgg11", "imagenet-caffe", "takes? BGR pixels .* imagenet, imagenet-v2, cifar10, mnist"),
        ("resnet", "imagenet", "no architecture 'resnet'; there are: lenet5"),
        ("vgg11", "imagenet", "does not fit vgg11 with 10 classes"),
        ("convnet:[conv3]", "cifar10", "column 10"),
    ],
)
def test_what_does_not_fit(weights: Path, labels: Path, name: str, preset: str, words: str) -> None:
    """An architecture, preset or weight file that does not fit the others is an error that says what would."""
    with pytest.raises(SetupError, match=words):
        published.load(name, weights, labels=labels, preset=preset)


def googlenet(folder: Path, labels: Path, *, transform_input: bool | None) -> Published:
    """Return GoogLeNet with weights for ten classes."""
    torch.save(find("googlenet").build(3, 10).state_dict(), folder / "googlenet.pth")
    return published.load(
        "googlenet", folder / "googlenet.pth", labels=labels, preset="imagenet", transform_input=transform_input
    )


def test_transform_input(labels: Path, tmp_path: Path) -> None:
    """GoogLeNet's pixels go in from -1 to 1, which is torchvision's transform_input after ImageNet's normalisation."""
    loaded = googlenet(tmp_path, labels, transform_input=None)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    imagenet = presets.find("imagenet")
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (imagenet.mean, imagenet.std))
    normalised = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std
    transformed = normalised * (std / 0.5) + (mean - 0.5) / 0.5
    torch.testing.assert_close(loaded.classifier().normalise(torch.from_numpy(pixels)), transformed, atol=1e-6, rtol=0)
    assert any("transform_input" in note for note in loaded.notes)
    assert "transform_input" in loaded.origin
    assert any("left out 20 keys of aux1, aux2" in note for note in loaded.notes)


def test_no_transform_input(labels: Path, tmp_path: Path) -> None:
    """With --no-transform-input GoogLeNet goes by the preset."""
    loaded = googlenet(tmp_path, labels, transform_input=False)
    assert (loaded.mean, loaded.std) == (presets.find("imagenet").mean, presets.find("imagenet").std)
    assert "transform_input" not in loaded.origin


def test_transform_input_is_googlenets(weights: Path, labels: Path) -> None:
    """For other architectures --transform-input is refused."""
    with pytest.raises(SetupError, match="not for all-cnn-c"):
        published.load("all-cnn-c", weights, labels=labels, preset="cifar10", transform_input=True)


@pytest.mark.parametrize(("name", "resized"), [("imagenet", 256), ("imagenet-v2", 232)])
def test_imagenet_presets(name: str, resized: int) -> None:
    """The ImageNet presets resize the shorter side to 256, or 232, and keep 224 of its middle."""
    spec = presets.preprocessing(name, 224)
    assert (spec.height, spec.width, spec.channels, spec.fit, spec.interpolation) == (224, 224, 3, "crop", "bilinear")
    assert round(spec.height / spec.crop_fraction) == resized


def test_drawn_pictures_follow_the_seed() -> None:
    """The same seed draws the same pictures, another seed others."""
    first, again, other = (np.concatenate([p.ravel() for p in drawn.pictures(2, 3, seed=seed)]) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("source", "given", "words"),
    [
        (
            "nowhere",
            {},
            r"no training run nowhere \(runs here: runs/mine\), and no architecture 'nowhere'; there",
        ),
        ("resnet18", {}, "resnet18 is an architecture: give published weights"),
        ("convnet:[[conv]]", {}, "column 15"),
        ("nowhere", {"preset": "imagenet"}, "go with --weights"),
        ("nowhere", {"transform_input": False}, "go with --weights"),
        ("resnet18", {"weights": Path("w.pth"), "preset": "imagenet"}, "--weights needs --labels"),
        ("resnet18", {"weights": Path("w.pth"), "labels": Path("l.txt")}, "and --preset"),
    ],
)
def test_used_wrongly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, given: dict[str, object], words: str
) -> None:
    """`saccade export` of neither a run nor an architecture names both; options that need others say so."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/mine").mkdir(parents=True)
    (tmp_path / "runs/mine/checkpoint.pt").touch()
    with pytest.raises(typer.BadParameter, match=words):
        cli.export(source, **given)  # type: ignore[arg-type]
