"""Published weights become a model file: no recipe and no data, so its golden samples are drawn pictures."""

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from torch import nn

from export import architectures, drawn, presets, verify, weights
from export.architectures import Architecture
from export.checkpoint import Classifier
from export.onnx_export import export_graph, write_manifest
from service import image
from service.errors import SetupError
from service.manifest import Manifest, Preprocessing, golden_sample, sha256
from service.scores import TOLERANCE

SAMPLES = 4
"""Golden samples: a picture takes VGG-19 half a second of two cores, here and at every start of a server."""
BATCH_SIZES = (1, SAMPLES)
"""Where parity is checked."""
TRANSFORMED = (
    "pixels go in from -1 to 1, as torchvision's published weights want them (its transform_input); "
    "--no-transform-input goes by the preset"
)


@dataclass(frozen=True, slots=True)
class Published:
    """A network with published weights, and all that is needed to serve it.

    Attributes:
        architecture: its name.
        classes: the labels, in order of their index.
        spec: how a picture becomes its input.
        mean: of each channel, of pixels from 0 to 1; likewise `std`.
        network: gives logits.
        origin: which weights these are, for the manifest.
        accuracy: top-1 as their publisher says, from 0 to 1; None where nobody says so.
        notes: what a person should know of how they were read.
    """

    architecture: str
    classes: tuple[str, ...]
    spec: Preprocessing
    mean: tuple[float, ...]
    std: tuple[float, ...]
    network: nn.Module
    origin: str
    accuracy: float | None = None
    notes: tuple[str, ...] = ()

    def classifier(self) -> Classifier:
        """Return what is served, in evaluation mode."""
        return Classifier(self.network, self.mean, self.std).eval()


@dataclass(frozen=True, slots=True)
class Written:
    """What is said of a file that was written: its difference from the network, and notes for a person."""

    difference: verify.Difference
    notes: tuple[str, ...]


def load(
    name: str,
    path: Path,
    *,
    labels: Path,
    preset: str,
    transform_input: bool | None = None,
    accuracy: float | None = None,
) -> Published:
    """Return an architecture with the weights of a file.

    Args:
        name: of the architecture.
        path: the weight file.
        labels: text file with one label a line, in the order of the weights' classes.
        preset: how pictures are prepared.
        transform_input: whether the architecture's own mean and deviation stand in for the preset's; None: where it
            has any.
        accuracy: as the publisher says, from 0 to 1.

    Raises:
        SetupError: something does not fit something else; the text says what.
    """
    architecture, chosen = architectures.find(name), presets.find(preset)
    if transform_input is not None and not architecture.mean:
        raise SetupError(f"--transform-input is for architectures whose weights want it (googlenet), not for {name}")
    transform = bool(architecture.mean) and transform_input is not False
    if chosen.order != "RGB" or chosen.scale != 1 / 255:
        fitting = ", ".join(other.name for other in presets.PRESETS.values() if other.order == "RGB")
        raise SetupError(
            f"preset {preset} is for ONNX files that take {chosen.order} pixels from 0 to 255; weights of our "
            f"architectures take RGB from 0 to 1: {fitting}"
        )
    spec = presets.preprocessing(preset, architecture.size)
    classes = read_labels(labels)
    state = weights.read(path)
    build = partial(architecture.build, spec.channels, len(classes))
    try:
        network = weights.fill(build, state, training_only=architecture.training_only)
    except SetupError as error:
        made_for = f"{name} with {len(classes)} classes ({labels}) and {spec.channels} channels (preset {preset})"
        raise SetupError(f"{path} does not fit {made_for}: {error}") from None
    return Published(
        architecture=name,
        classes=classes,
        spec=spec,
        mean=architecture.mean if transform else chosen.mean,
        std=architecture.std if transform else chosen.std,
        network=network,
        origin=f"weights {path.name}, SHA-256 {sha256(path)}; preset {preset}{', transform_input' * transform}",
        accuracy=accuracy,
        notes=(*_left_out(state, architecture), *([TRANSFORMED] * transform)),
    )


def read_labels(path: Path) -> tuple[str, ...]:
    """Return the labels of a text file with one a line; the same one may stand there twice, as in ImageNet's list.

    Raises:
        SetupError: it cannot be read, has an empty line, or fewer than two labels.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().split("\n")
    except UnicodeDecodeError:
        raise SetupError(f"{path} is not UTF-8 text") from None
    except OSError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror}") from None
    labels = tuple(line.strip() for line in lines)
    if len(labels) < 2:
        raise SetupError(f"{path} has fewer than two labels; write one a line, in the order of the weights' classes")
    if "" in labels:
        raise SetupError(f"{path}: line {labels.index('') + 1} is empty; write one label a line")
    return labels


def write(published: Published, path: Path, tell: Callable[[str], None] = lambda _: None) -> Written:
    """Write the model file, verify it against the network, and load it as the server does.

    Args:
        published: the network.
        path: of the file.
        tell: told what is being done.

    Raises:
        ModelRejected: the file does not compute what the network computes.
    """
    classifier = published.classifier()
    tell("exporting")
    export_graph(published, path)
    encoded = [image.encode_png(picture) for picture in drawn.pictures(SAMPLES, published.spec.channels)]
    images = verify.decoded(encoded, published.spec)
    tell("verifying")
    difference = verify.compare(classifier, path, images, batch_sizes=BATCH_SIZES)
    probabilities = classifier.predict(images)
    write_manifest(path, make_manifest(published, encoded, probabilities.tolist()))
    verify.check_loads(path, max_batch_size=1)  # larger ones ran above
    return Written(difference, (*published.notes, *_flatness(float(np.ptp(probabilities, axis=0).max()))))


def make_manifest(published: Published, encoded: list[bytes], probabilities: list[list[float]]) -> Manifest:
    """Return the manifest of a published network's file; each golden sample's label is the network's own answer."""
    stated = "accuracy as stated by --accuracy, not measured; " if published.accuracy is not None else ""
    return Manifest(
        architecture=published.architecture,
        labels=published.classes,
        preprocessing=published.spec,
        data=f"{published.origin}; {stated}golden samples drawn",
        accuracy=published.accuracy,
        versions={name: importlib.metadata.version(name) for name in ("saccade", "torch", "onnx")},
        golden_samples=tuple(
            golden_sample(picture, int(np.argmax(row)), row)
            for picture, row in zip(encoded, probabilities, strict=True)
        ),
    )


def _left_out(state: weights.Weights, architecture: Architecture) -> list[str]:
    """Return a note where weights hold what only training uses."""
    count = sum(key.split(".")[0] in architecture.training_only for key in state)
    return [f"left out {count} keys of {', '.join(architecture.training_only)}, which only training uses"] * bool(count)


def _flatness(spread: float) -> list[str]:
    """Return a note where the answers hardly depend on the picture, as with weights that were never trained."""
    if spread > 10 * TOLERANCE["fp32"]:
        return []
    return [f"the golden samples' probabilities differ by {spread:.1g} at most, so that their test proves little"]
