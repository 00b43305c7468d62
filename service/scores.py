"""What a classifier gives: scores of any shape into rows of probabilities, the best of them, what is refused."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any

import numpy as np
import numpy.typing as npt

from service.errors import ModelRejected
from service.providers import Computed

Rows = npt.NDArray[np.float32]

TOLERANCE: dict[Computed, float] = {"fp32": 1e-4, "tf32": 5e-3, "fp16": 5e-3, "bf16": 3e-2, "int8": 3e-2}
"""Largest difference from a golden sample's probabilities, and of a CUDA graph from the same work without it. fp32
differs by 2e-8 between batch sizes and by up to 1e-5 between providers; a broken kernel, a wrong channel order or a
wrong file differ by tenths."""

_SUM = 1e-3
"""How far a row's sum may be from 1 to be taken for probabilities where the graph does not say what it gives."""


_FEW_CLASSES = 32
_MANY_ROWS = 4
"""From so many rows of few classes on numpy sorts faster: 8 us for 4 rows, by Python 12; of 32 rows 10 and 100."""


@dataclass(slots=True)
class Best:
    """The k best classes of each of N pictures, falling, ties by index; a slice of it is that of some pictures.

    In one piece, since a list for each picture made the collector walk through all of them.

    Attributes:
        k: how many of each; 0: none, only whole rows were asked for.
        indices: of the classes, N * k, one picture after the other.
        probabilities: theirs; NaN for all of a picture whose row holds a value that is not finite.
        rows: [N, classes], where somebody in the batch asked for whole rows.
    """

    k: int
    indices: list[int]
    probabilities: list[float]
    rows: Rows | None = None

    def __len__(self) -> int:
        return len(self.indices) // self.k if self.k else 0 if self.rows is None else len(self.rows)

    def __getitem__(self, part: slice) -> "Best":
        values = slice(part.start * self.k, part.stop * self.k)
        rows = None if self.rows is None else self.rows[part]
        return Best(self.k, self.indices[values], self.probabilities[values], rows)

    @property
    def finite(self) -> bool:
        """Whether every picture got values that are."""
        return isfinite(sum(self.probabilities)) and (self.rows is None or bool(np.isfinite(self.rows).all()))

    def first(self, k: int) -> "Best":
        """Return the first k classes of each picture, at most as many as there are; whole rows only for 0."""
        if k == self.k and (self.rows is None or not k):
            return self
        starts = range(0, len(self.indices), self.k or 1)
        indices = [index for start in starts for index in self.indices[start : start + k]]
        probabilities = [value for start in starts for value in self.probabilities[start : start + k]]
        return Best(k, indices, probabilities, None if k else self.rows)


def joined(parts: Sequence[Best], k: int) -> Best:
    """Return the first k classes of each picture of these parts."""
    if len(parts) == 1:
        return parts[0].first(k)
    parts = [part.first(k) for part in parts]  # of batches whose callers asked for more, or for fewer
    rows = [part.rows for part in parts if part.rows is not None]
    return Best(
        k,
        [index for part in parts for index in part.indices],
        [value for part in parts for value in part.probabilities],
        np.concatenate(rows) if rows else None,
    )


def rows_of(scores: npt.NDArray[Any]) -> Rows:
    """Return scores [N, classes] of scores [N, classes, 1, 1], [N, 1, 1, classes] and the like, in float32.

    Raises:
        ModelRejected: more than one dimension beside the first is not 1: a feature map, say.
    """
    if scores.ndim < 2 or sum(size != 1 for size in scores.shape[1:]) > 1:
        raise ModelRejected(f"its output has the shape {scores.shape}; it must be [N, classes] or [N, classes, 1, 1]")
    return scores.reshape(len(scores), -1).astype(np.float32, copy=False)


def softmax(logits: Rows) -> Rows:
    """Return exp(l_i) / sum_j exp(l_j) of each row [N, classes]; less the row's largest, so that nothing overflows."""
    rows: Rows = np.exp(logits - logits.max(axis=1, keepdims=True))
    rows /= rows.sum(axis=1, keepdims=True)
    return rows


def are_probabilities(rows: Rows) -> bool:
    """Return whether rows [N, classes] are probabilities already: none negative, each sums to 1 within 0.001."""
    return bool(rows.min() >= 0 and np.abs(rows.sum(axis=1) - 1).max() <= _SUM)


def check_probabilities(probabilities: Rows, pictures: int, classes: int) -> None:
    """Refuse outputs that are no probabilities.

    Raises:
        ModelRejected: wrong shape, not finite, or a row that does not sum to 1 within 0.01 (fp16 sums drift by 0.001).
    """
    if probabilities.shape != (pictures, classes):
        raise ModelRejected(
            f"{pictures} pictures gave an output of shape {probabilities.shape}; expected ({pictures}, {classes})"
        )
    if not np.isfinite(probabilities).all():
        raise ModelRejected("its output holds values that are not finite")
    if probabilities.min() < 0:
        raise ModelRejected(f"its output holds {probabilities.min():g}; probabilities are not negative")
    sums = probabilities.sum(axis=1)
    if np.abs(sums - 1).max() > 0.01:
        raise ModelRejected(f"its outputs sum to {sums.min():.3f} to {sums.max():.3f}; probabilities sum to 1")


def best_of(probabilities: Rows, k: int) -> Best:
    """Return the k best classes of each row, all where there are fewer.

    For few classes and rows Python's own sort takes 3 us a row, where numpy's takes 8 us a batch and 0.1 a row. Of
    many classes only those that reach the k-th largest value are sorted: 12 us a row of 1,000 instead of 45.
    """
    classes = probabilities.shape[1]
    best = Best(min(k, classes), [], [])
    if classes > _FEW_CLASSES and k < classes:
        least = np.partition(probabilities, classes - k, axis=1)[:, classes - k, np.newaxis]
        finite = np.asarray(np.isfinite(probabilities).all(axis=1))
        for row, able, fine in zip(probabilities, np.asarray(probabilities >= least), finite, strict=True):
            candidates = np.flatnonzero(able) if fine else np.arange(classes)
            _add_best(best, candidates.tolist(), row[candidates].tolist())
    elif len(probabilities) < _MANY_ROWS:
        for values in probabilities.tolist():
            _add_best(best, range(classes), values)
    else:
        return _best_of_many(probabilities, best.k)
    return best


def _best_of_many(probabilities: Rows, k: int) -> Best:
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    first = np.arange(len(probabilities))[:, np.newaxis] * probabilities.shape[1]
    values = probabilities.ravel().take(order + first)
    finite = np.isfinite(probabilities)
    if not finite.all():
        values[~finite.all(axis=1)] = nan
    return Best(k, order.ravel().tolist(), values.ravel().tolist())


def _add_best(best: Best, indices: Sequence[int], values: list[float]) -> None:
    """Add those of one picture, whose candidates these are."""
    # Stable: of equals the first stays.
    order = sorted(range(len(values)), key=values.__getitem__, reverse=True)[: best.k]
    best.indices.extend([indices[place] for place in order])
    fine = isfinite(sum(values))  # probabilities are so small that only what is not finite gives that
    best.probabilities.extend([values[place] for place in order] if fine else [nan] * len(order))
