"""How good a classifier is: accuracy of anything that gives probabilities."""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

Predict = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]
"""Pictures uint8 [N, height, width, channels] to scores [N, classes]."""


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
