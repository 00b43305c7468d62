"""What an evaluation found, as the values of report.json."""

import importlib.metadata
import json
from dataclasses import asdict, dataclass

import numpy as np

from export import evaluate
from export.data import Indices
from export.evaluate import Bin, Macro, McNemar, Probabilities
from export.measure import Opened, Part, Split
from service.manifest import Evaluation
from service.session import check_runtime

FORMAT = 1
MISTAKES = 24
"""How many of the most confident mistakes are kept."""
TOP = 5


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Which file was measured: see service.manifest for the fields that it says of itself.

    Attributes:
        name: of the model, or of the file where it lies in no repository.
        version: 0 where it lies in no repository.
        sha256: of the file, as it was measured.
        provider: the execution provider that it ran on.
        precision: of its arithmetic.
        architecture: the network.
        verified: whether it carries golden samples, which came true.
    """

    name: str
    version: int
    sha256: str
    provider: str
    precision: str
    architecture: str
    verified: bool

    @property
    def title(self) -> str:
        """Name and version, for people."""
        return f"{self.name} {self.version}" if self.version else self.name


@dataclass(frozen=True, slots=True)
class DataFacts:
    """What it was measured on: data set, part, how many pictures, and the seed of the split."""

    name: str
    split: str
    pictures: int
    seed: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """Expected calibration error, and the bins of the reliability diagram."""

    error: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One class: see evaluate.ClassScore."""

    index: int
    label: str
    pictures: int
    predicted: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, slots=True)
class Mistake:
    """A picture that was taken for another class.

    Attributes:
        picture: its number in the part.
        label: index of its true class.
        predicted: index of the class that it was taken for.
        confidence: probability of `predicted`.
        probability: of `label`.
    """

    picture: int
    label: int
    predicted: int
    confidence: float
    probability: float


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that report.json says of one model; shares are from 0 to 1.

    Attributes:
        format: 1; another number means that fields changed their meaning.
        made_by: libraries by name, and their versions.
        model: which file.
        data: on what.
        accuracy: share of pictures whose best class is the true one.
        accuracy_interval: its 95 % interval (Wilson).
        top5_accuracy: share of pictures whose true class is among the five best; None with five classes or fewer.
        cross_entropy: in nats a picture.
        macro: means over the classes that have pictures.
        calibration: how far the probabilities are from the accuracies.
        classes: one row for each label of the model, in order of the index.
        confusion: pictures by true class (row) and predicted class (column).
        mistakes: the most confident ones first, at most MISTAKES.
        warnings: why the figures may be better than on pictures that the model never saw.
    """

    format: int
    made_by: dict[str, str]
    model: ModelFacts
    data: DataFacts
    accuracy: float
    accuracy_interval: tuple[float, float]
    top5_accuracy: float | None
    cross_entropy: float
    macro: Macro
    calibration: Calibration
    classes: tuple[ClassRow, ...]
    confusion: tuple[tuple[int, ...], ...]
    mistakes: tuple[Mistake, ...]
    warnings: tuple[str, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The model's labels, in order of their index."""
        return tuple(row.label for row in self.classes)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A second model on the same pictures, and McNemar's test of the two; the reported model is the first one."""

    report: Report
    mcnemar: McNemar


def make(
    opened: Opened, part: Part, true: Indices, probabilities: Probabilities, warnings: list[str] | None = None
) -> Report:
    """Return the report of a model's answers.

    Args:
        opened: the model.
        part: what it was measured on.
        true: the true class of each picture, by the model's index.
        probabilities: what the model answered, [N, classes].
        warnings: see Report.
    """
    labels = opened.manifest.labels
    name, version = check_runtime().split()
    predicted = probabilities.argmax(axis=1)
    right = predicted == true
    confusion = evaluate.confusion_matrix(true, predicted, len(labels))
    scores = evaluate.class_scores(confusion)
    bins = evaluate.reliability(probabilities.max(axis=1), right)
    return Report(
        format=FORMAT,
        made_by={"saccade": importlib.metadata.version("saccade"), name: version},
        model=_model_facts(opened),
        data=DataFacts(part.data, part.split, len(true), part.seed),
        accuracy=float(right.mean()),
        accuracy_interval=evaluate.wilson(int(right.sum()), len(true)),
        top5_accuracy=evaluate.top_k_accuracy(probabilities, true, TOP) if len(labels) > TOP else None,
        cross_entropy=evaluate.cross_entropy(probabilities, true),
        macro=evaluate.macro(scores),
        calibration=Calibration(evaluate.calibration_error(bins), tuple(bins)),
        classes=tuple(
            ClassRow(index, label, **asdict(score))
            for index, (label, score) in enumerate(zip(labels, scores, strict=True))
        ),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        mistakes=_mistakes(true, probabilities),
        warnings=tuple(warnings or ()),
    )


def summary(data: str, split: Split, true: Indices, probabilities: Probabilities) -> Evaluation:
    """Return the summary that goes into the manifest, of answers [N, classes] for a part of a data set."""
    predicted, classes = probabilities.argmax(axis=1), probabilities.shape[1]
    right = predicted == true
    scores = evaluate.class_scores(evaluate.confusion_matrix(true, predicted, classes))
    return Evaluation(
        data=data,
        split=split,
        pictures=len(true),
        accuracy=float(right.mean()),
        top5_accuracy=evaluate.top_k_accuracy(probabilities, true, TOP) if classes > TOP else None,
        cross_entropy=evaluate.cross_entropy(probabilities, true),
        macro_f1=evaluate.macro(scores).f1,
        calibration_error=evaluate.calibration_error(evaluate.reliability(probabilities.max(axis=1), right)),
    )


def _model_facts(opened: Opened) -> ModelFacts:
    file, manifest = opened.file, opened.manifest
    return ModelFacts(
        name=file.name,
        version=file.version,
        sha256=opened.sha256,
        provider=opened.session.provider,
        precision=manifest.precision,
        architecture=manifest.architecture,
        verified=opened.verified,
    )


def _mistakes(true: Indices, probabilities: Probabilities) -> tuple[Mistake, ...]:
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != true)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES]
    return tuple(
        Mistake(
            picture=int(index),
            label=int(true[index]),
            predicted=int(predicted[index]),
            confidence=float(confidence[index]),
            probability=float(probabilities[index, true[index]]),
        )
        for index in worst
    )


def confused_pairs(report: Report, most: int) -> list[tuple[int, int, int]]:
    """Return (true class, predicted class, pictures) of the pairs confused most often, falling, ties by index."""
    matrix = np.array(report.confusion)
    np.fill_diagonal(matrix, 0)
    true, predicted = np.nonzero(matrix)
    counts = matrix[true, predicted]
    order = np.argsort(-counts, kind="stable")[:most]
    return [(int(true[place]), int(predicted[place]), int(counts[place])) for place in order]


def to_json(report: Report, comparison: Comparison | None = None) -> str:
    """Return the text of report.json: one line a field, or a row of a table, so that two of them can be compared."""
    fields = asdict(report)
    if comparison:
        fields["compare"] = asdict(comparison)
    return "{\n" + ",\n".join(f"{json.dumps(name)}: {_value(value)}" for name, value in fields.items()) + "\n}\n"


def _value(value: object) -> str:
    if isinstance(value, tuple) and value and isinstance(value[0], dict | tuple):
        return "[\n" + ",\n".join(f"  {json.dumps(row)}" for row in value) + "\n]"
    return json.dumps(value)
