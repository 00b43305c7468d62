"""What a classifier gives: scores of any shape into rows of probabilities, the best of them, what is refused."""

from collections.abc import Sequence
from math import isfinite
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from service.errors import ModelRejected

Rows = npt.NDArray[np.float32]

_SUM = 1e-3
"""How far a row's sum may be from 1 to be taken for probabilities where the graph does not say what it gives."""


_FEW_CLASSES = 32
_MANY_ROWS = 4
"""From so many rows of few classes on numpy sorts faster: 10 us for 4 rows, by Python 12; of 32 rows 25 and 100."""


class Best(NamedTuple):
    """The best classes of one picture, falling, and their probabilities; of a whole row there are no indices."""

    indices: list[int]
    probabilities: Sequence[float] | Rows

    def first(self, k: int) -> "Best":
        """Return the first k of them."""
        return Best(self.indices[:k], self.probabilities[:k])


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


def best_of(probabilities: Rows, k: int) -> list[Best | None]:
    """Return the k best classes of each row, falling, ties by index; None for a row that is not finite.

    For few classes and rows Python's own sort takes 3 us a row, where numpy's takes 8 us a batch and 0.6 a row. Of
    many classes only those that reach the k-th largest value are sorted: 12 us a row of 1,000 instead of 45.
    """
    classes = probabilities.shape[1]
    if classes <= _FEW_CLASSES or k >= classes:
        if len(probabilities) >= _MANY_ROWS:
            return _best_of_many(probabilities, k)
        return [_best(range(classes), row, k) for row in probabilities.tolist()]
    least = np.partition(probabilities, classes - k, axis=1)[:, classes - k, np.newaxis]
    finite = np.asarray(np.isfinite(probabilities).all(axis=1))
    rows: list[Best | None] = []
    for row, able, fine in zip(probabilities, np.asarray(probabilities >= least), finite, strict=True):
        candidates = np.flatnonzero(able)
        rows.append(_best(candidates.tolist(), row[candidates].tolist(), k) if fine else None)
    return rows


def _best_of_many(probabilities: Rows, k: int) -> list[Best | None]:
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    values = probabilities[np.arange(len(order))[:, np.newaxis], order]
    rows: list[Best | None] = list(map(Best, order.tolist(), values.tolist()))
    finite = np.isfinite(probabilities)
    if not finite.all():
        for row in np.flatnonzero(~finite.all(axis=1)):
            rows[row] = None
    return rows


def _best(indices: Sequence[int], values: list[float], k: int) -> Best | None:
    if not isfinite(sum(values)):  # probabilities are so small that only what is not finite gives that
        return None
    order = sorted(range(len(values)), key=values.__getitem__, reverse=True)[:k]  # stable: of equals the first stays
    return Best([indices[place] for place in order], [values[place] for place in order])
