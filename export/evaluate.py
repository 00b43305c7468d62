"""How good a classifier is: every measure as a readable formula over labels and probabilities."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Predict = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]
"""Pictures uint8 [N, height, width, channels] to scores [N, classes]."""
Indices = npt.NDArray[np.int64]
Probabilities = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]

BINS = 15
"""Of the calibration error, as in Guo et al. (2017)."""
SMALLEST = 1e-12
"""Probabilities below it count as this much, so that one picture costs at most 27.6 nats instead of infinitely many."""
EXACT_BELOW = 25
"""Discordant pictures below which McNemar's test is computed exactly."""
_Z = 1.959964
"""Of the normal distribution 95 % lies between -Z and Z."""


def batches(count: int, size: int) -> Iterator[slice]:
    """Yield slices that cover `count` in steps of `size`."""
    for first in range(0, count, size):
        yield slice(first, min(first + size, count))


def predictions(predict: Predict, images: npt.NDArray[np.uint8], *, batch_size: int = 256) -> npt.NDArray[np.int64]:
    """Return the index of the best class of each picture."""
    parts = [predict(images[part]).argmax(axis=1) for part in batches(len(images), batch_size)]
    return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, np.int64)


def accuracy(
    predict: Predict, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], *, batch_size: int = 256
) -> float:
    """Return the share of pictures whose best class is their label, from 0 to 1."""
    return float((predictions(predict, images, batch_size=batch_size) == labels).mean())


def top_k_accuracy(probabilities: Probabilities, labels: Indices, k: int) -> float:
    """Return the share of pictures whose label is among the `k` best of its row [N, classes]; ties by index."""
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return float((best == labels[:, np.newaxis]).any(axis=1).mean())


def cross_entropy(probabilities: Probabilities, labels: Indices) -> float:
    """Return the mean of -log of the true class's probability, in nats; probabilities count as at least SMALLEST."""
    true = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(true, SMALLEST)).mean())


def wilson(right: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share `right / count`, from 0 to 1.

    Wilson, Probable inference, the law of succession, and statistical inference (1927): unlike the normal
    approximation it stays within 0 and 1 and has a width even where everything is right.
    """
    share = right / count
    middle = share + _Z**2 / (2 * count)
    half = _Z * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    scale = 1 + _Z**2 / count
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def confusion_matrix(labels: Indices, predicted: Indices, classes: int) -> Indices:
    """Return how many pictures of each class (row) were taken for each class (column), int64 [classes, classes]."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes).astype(np.int64)


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One class: how many pictures it has, how many were taken for it, and how well that agrees.

    Attributes:
        pictures: whose label it is.
        predicted: that were taken for it.
        precision: share of `predicted` that is right; 0 where nothing was taken for it.
        recall: share of `pictures` that was found; 0 where there are none.
        f1: harmonic mean of the two; 0 where both are.
    """

    pictures: int
    predicted: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, slots=True)
class Macro:
    """Means over the classes that have pictures, each class counting alike."""

    precision: float
    recall: float
    f1: float


def class_scores(confusion: Indices) -> list[ClassScore]:
    """Return the score of each class of a confusion matrix (rows true, columns predicted)."""
    scores = []
    for index, row in enumerate(confusion):
        right, pictures, predicted = int(row[index]), int(row.sum()), int(confusion[:, index].sum())
        precision, recall = right / max(1, predicted), right / max(1, pictures)
        # F1 = 2PR / (P + R) = 2 right / (pictures + predicted), which needs no case for P + R = 0.
        f1 = 2 * right / max(1, pictures + predicted)
        scores.append(ClassScore(pictures, predicted, precision, recall, f1))
    return scores


def macro(scores: list[ClassScore]) -> Macro:
    """Return the means over the classes that have pictures; a class without any says nothing of recall."""
    shown = [score for score in scores if score.pictures]
    count = max(1, len(shown))
    return Macro(
        precision=sum(score.precision for score in shown) / count,
        recall=sum(score.recall for score in shown) / count,
        f1=sum(score.f1 for score in shown) / count,
    )


@dataclass(frozen=True, slots=True)
class Bin:
    """The pictures whose best probability lies above `low` and up to `high`.

    Attributes:
        low: excluded, except by the first bin.
        high: included.
        pictures: how many there are.
        confidence: their mean best probability; 0 where there are none.
        accuracy: the share that is right; 0 where there are none.
    """

    low: float
    high: float
    pictures: int
    confidence: float
    accuracy: float


def reliability(confidence: npt.NDArray[np.float32], right: Flags, bins: int = BINS) -> list[Bin]:
    """Return what a reliability diagram shows: accuracy against confidence in bins of equal width.

    Guo et al., On Calibration of Modern Neural Networks (2017), section 2: bin m of M holds confidences in
    ((m - 1) / M, m / M].
    """
    place = np.clip(np.ceil(confidence.astype(np.float64) * bins).astype(np.int64) - 1, 0, bins - 1)
    found = []
    for number in range(bins):
        members = place == number
        count = int(members.sum())
        mean, share = (float(confidence[members].mean()), float(right[members].mean())) if count else (0.0, 0.0)
        found.append(Bin(number / bins, (number + 1) / bins, count, mean, share))
    return found


def calibration_error(bins: list[Bin]) -> float:
    """Return the expected calibration error: the mean gap between accuracy and confidence, weighted by pictures.

    Guo et al. (2017), equation 3: sum over the bins of |B| / n * |accuracy(B) - confidence(B)|.
    """
    count = sum(part.pictures for part in bins)
    return sum(part.pictures / count * abs(part.accuracy - part.confidence) for part in bins)


@dataclass(frozen=True, slots=True)
class McNemar:
    """Whether two classifiers differ on the same pictures by more than chance.

    Attributes:
        both_right: pictures that both classify right; likewise `both_wrong`.
        only_first_right: that only the first one does; likewise `only_second_right`.
        test: `exact` (binomial) or `chi-squared`.
        statistic: chi-squared with one degree of freedom; None for the exact test.
        p_value: how probable so uneven a division, or a more uneven one, is if both are equally good.
    """

    both_right: int
    both_wrong: int
    only_first_right: int
    only_second_right: int
    test: str
    statistic: float | None
    p_value: float


def mcnemar(first_right: Flags, second_right: Flags) -> McNemar:
    """Return McNemar's test of two classifiers' right answers [N] on the same pictures.

    McNemar, Note on the sampling error of the difference between correlated proportions or percentages (1947):
    only pictures on which they differ count, b and c of them, and chi-squared is (|b - c| - 1)^2 / (b + c), with the
    continuity correction of Edwards (1948). With fewer than EXACT_BELOW of them, the two-sided binomial test of b out
    of b + c at one half.
    """
    b = int((first_right & ~second_right).sum())
    c = int((~first_right & second_right).sum())
    both, neither = int((first_right & second_right).sum()), int((~first_right & ~second_right).sum())
    if b + c < EXACT_BELOW:
        tail = sum(math.comb(b + c, count) for count in range(min(b, c) + 1)) / 2 ** (b + c)
        return McNemar(both, neither, b, c, "exact", None, min(1.0, 2 * tail))
    statistic = max(0, abs(b - c) - 1) ** 2 / (b + c)
    # The upper tail of chi-squared with one degree of freedom is that of a squared normal variable.
    return McNemar(both, neither, b, c, "chi-squared", statistic, math.erfc(math.sqrt(statistic / 2)))
