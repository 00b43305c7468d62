"""What a network sees in one picture: its feature maps stage by stage, and where the evidence for a class lies."""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from export.data import Images
from export.evaluate import batches
from export.evaluation import Progress, silent
from export.measure import BATCH, Opened
from export.plan import FILE, Plan, read_plan
from service import image
from service.errors import InvalidInput, ModelRejected, SetupError
from service.model import Options
from service.session import open_graph

Floats = npt.NDArray[np.float32]
Method = Literal["cam", "occlusion"]

AGREE = 1e-3
"""Largest difference between the probabilities of explain.onnx and model.onnx; another model's differ by far more."""
SQUARE = 6
"""The occluding square's side is this part of the picture's shorter side, and it moves by a third of itself."""


@dataclass(frozen=True, slots=True)
class Tap:
    """What gives the inner values of a model: the plan of its explain graph, and the graph as a function."""

    plan: Plan
    run: Callable[[npt.NDArray[Any]], dict[str, Floats]]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Where in a picture the evidence for a class lies.

    Attributes:
        index: of the class.
        label: its name.
        probability: of the class.
        method: `cam` or `occlusion`.
        values: [rows, columns]; the larger, the more it speaks for the class. Of cam in logits, at the resolution of
            the last feature maps; of occlusion in probability, at that of the picture.
    """

    index: int
    label: str
    probability: float
    method: Method
    values: Floats

    @property
    def peak(self) -> tuple[float, float]:
        """Where the most evidence is, as shares of height and width from the upper left, each from 0 to 1."""
        row, column = np.unravel_index(int(self.values.argmax()), self.values.shape)
        return (float(row) + 0.5) / self.values.shape[0], (float(column) + 0.5) / self.values.shape[1]

    def to_json(self) -> dict[str, object]:
        """Return what a program may want to know."""
        return {
            "index": self.index,
            "label": self.label,
            "probability": self.probability,
            "method": self.method,
            "peak": self.peak,
        }


@dataclass(frozen=True, slots=True)
class FeatureMaps:
    """The maps [maps, height, width] of one stage, and the operators that made them."""

    operators: tuple[str, ...]
    values: Floats


@dataclass(frozen=True, slots=True)
class Explanation:
    """All of it.

    Attributes:
        picture: as the model sees it, uint8 [height, width, channels].
        evidence: one for each class that was asked for.
        filters: of the first convolution, [maps, channels, height, width]; None where there is no convolution.
        stages: the feature maps, in the network's order.
    """

    picture: Images
    evidence: tuple[Evidence, ...]
    filters: Floats | None
    stages: tuple[FeatureMaps, ...]


def tap(opened: Opened) -> Tap:
    """Return the explain graph that stands beside a model file, else one made of it now.

    Raises:
        ModelRejected: explain.onnx is no explain graph.
        SetupError: there is none and the onnx package is missing; the text gives the commands.
    """
    path = opened.file.path.with_name(FILE)
    if path.is_file():
        return Tap(read_plan(path), open_graph(path))
    if importlib.util.find_spec("onnx") is None:
        raise SetupError(
            f"there is no {path}: `saccade export --explain` writes it, or `pip install onnx`, and it is made now"
        )
    from export.explain_graph import explain_graph

    model, plan = explain_graph(opened.file.path)
    return Tap(plan, open_graph(model))


def read_picture(opened: Opened, path: Path) -> Images:
    """Return a picture file as the model sees it, uint8 [height, width, channels].

    Raises:
        SetupError: it cannot be read or decoded.
    """
    try:
        return image.decode(path.read_bytes(), opened.manifest.preprocessing, max_pixels=Options().max_pixels)
    except OSError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror}") from None
    except InvalidInput as error:
        raise SetupError(f"{path} {error.reason}") from None


def explain(
    opened: Opened,
    inner: Tap,
    picture: Images,
    *,
    classes: Sequence[int] = (),
    best: int = 3,
    method: Method | None = None,
    progress: Progress = silent,
) -> Explanation:
    """Look into a model while it classifies a picture.

    Args:
        opened: the model.
        inner: see `tap`.
        picture: as the model sees it, uint8 [height, width, channels].
        classes: whose evidence is wanted.
        best: where no class is named, how many of the most probable ones.
        method: None means cam where the network allows it, else occlusion.
        progress: shows how far occlusion is.

    Raises:
        ModelRejected: the explain graph is another model's.
        SetupError: cam is asked for where the network does not allow it.
    """
    batch = picture[np.newaxis]
    probabilities = opened.run(batch)
    values = inner.run(np.repeat(opened.samples(batch), opened.session.fixed_batch or 1, axis=0))
    _check_same(opened, inner.plan, probabilities, values)
    cam = inner.plan.class_maps
    if method == "cam" and cam is None:
        raise SetupError(
            f"{opened.file.title} allows no class activation maps: its head is not global average pooling and one "
            "linear layer; use --method occlusion"
        )
    if cam is not None and method != "occlusion":
        method, maps = "cam", values[cam][0]
    else:
        method, maps = "occlusion", occlusion(opened, picture, progress)
    labels = opened.manifest.labels
    return Explanation(
        picture=picture,
        evidence=tuple(
            Evidence(index, labels[index], float(probabilities[0, index]), method, maps[index])
            for index in classes or np.argsort(-probabilities[0], kind="stable")[:best].tolist()
        ),
        filters=values[inner.plan.filters] if inner.plan.filters else None,
        stages=tuple(FeatureMaps(stage.operators, values[stage.output][0]) for stage in inner.plan.stages),
    )


def _check_same(opened: Opened, plan: Plan, probabilities: Floats, values: dict[str, Floats]) -> None:
    given = values.get(plan.probabilities)
    # A foreign graph may give logits or [N, classes, 1, 1]; then only the best class is compared.
    given = given.reshape(len(given), -1)[:1].astype(np.float32) if given is not None else np.zeros((1, 0), np.float32)
    same = given.shape == probabilities.shape and (
        np.abs(given - probabilities).max() <= AGREE
        or (abs(given.sum() - 1) > AGREE and given.argmax() == probabilities.argmax())
    )
    if not same:
        raise ModelRejected(
            f"{FILE} beside {opened.file.path} is of another model: remove it, or export again by "
            "`saccade export --explain`"
        )


def occlusion(opened: Opened, picture: Images, progress: Progress = silent) -> Floats:
    """Return for each class how much its probability falls where the picture is hidden, [classes, height, width].

    Zeiler & Fergus, Visualizing and Understanding Convolutional Networks (2014), section 4.2: a square is moved over
    the picture and the probability recorded. Differs: the square has the picture's median colour instead of grey, so
    that it hides ink on paper without adding any, and a pixel gets the mean fall of the squares that cover it.

    Args:
        opened: the model.
        picture: uint8 [height, width, channels].
        progress: shows how many squares are done.
    """
    height, width, _ = picture.shape
    side = max(1, round(min(height, width) / SQUARE))
    step = max(1, round(side / 3))
    corners = [(row, column) for row in _places(height, side, step) for column in _places(width, side, step)]
    median = np.median(picture, axis=(0, 1)).astype(np.uint8)
    whole = opened.run(picture[np.newaxis])[0]
    fall = np.zeros((len(whole), height, width), np.float32)
    covered = np.zeros((height, width), np.float32)
    with progress("occluding", len(corners)) as advance:
        for part in batches(len(corners), BATCH):
            hidden = np.repeat(picture[np.newaxis], part.stop - part.start, axis=0)
            for one, (row, column) in zip(hidden, corners[part], strict=True):
                one[row : row + side, column : column + side] = median
            for seen, (row, column) in zip(opened.run(hidden), corners[part], strict=True):
                square = np.s_[row : row + side, column : column + side]
                fall[:, *square] += (whole - seen)[:, np.newaxis, np.newaxis]
                covered[square] += 1
            advance(len(hidden))
    return fall / covered


def _places(length: int, side: int, step: int) -> list[int]:
    """Return where squares of `side` begin along a `length`, the last one at its end."""
    return [*range(0, length - side, step), length - side]
