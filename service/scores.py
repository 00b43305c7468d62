"""What a classifier gives: scores of any shape into rows of probabilities, and what is refused as none."""

from typing import Any

import numpy as np
import numpy.typing as npt

from service.errors import ModelRejected

Rows = npt.NDArray[np.float32]

_SUM = 1e-3
"""How far a row's sum may be from 1 to be taken for probabilities where the graph does not say what it gives."""


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
