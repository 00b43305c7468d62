"""Labelled pictures in memory: their classes, their parts, and how they become a network's input."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service import image
from service.manifest import Preprocessing

Images = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures as they came, and the index of their class.

    Attributes:
        images: uint8 [N, height, width] or [N, height, width, channels]; where their sizes differ, an array [N] of such
            pictures, each of its own size.
        labels: int64 [N].
        fitted: what they were decoded for as serving decodes, so that nothing is left to do; None where they are whole.
    """

    images: Images
    labels: Indices
    fitted: Preprocessing | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Indices) -> "Pictures":
        """Return those at `indices`."""
        return Pictures(self.images[indices], self.labels[indices], self.fitted)

    def file(self, index: int) -> bytes:
        """Return the PNG file that a client would send of a picture; of a fitted one, a file that is fitted to it."""
        picture = self.images[index]
        return image.encode_png(picture if self.fitted is None else _uncropped(picture, self.fitted))


@dataclass(frozen=True, slots=True)
class Data:
    """A data set in three parts: to train on, to choose by, and to measure on once; `bad` says what was left out."""

    name: str
    classes: tuple[str, ...]
    train: Pictures
    validation: Pictures
    test: Pictures
    bad: tuple[str, ...] = ()


def named(classes: Sequence[str]) -> str:
    """Return how many classes there are and the first few, for an error."""
    return f"{len(classes)} classes ({', '.join(classes[:4])}{', ...' if len(classes) > 4 else ''})"


def split(pictures: Pictures, shares: Sequence[float], seed: int) -> list[Pictures]:
    """Return disjoint parts with the given shares of every class, the same for the same seed."""
    random = np.random.default_rng(seed)
    parts: list[list[Indices]] = [[] for _ in shares]
    for label in np.unique(pictures.labels):
        members = random.permutation(np.flatnonzero(pictures.labels == label))
        cuts = np.round(np.cumsum(shares)[:-1] * len(members)).astype(int)
        for part, indices in zip(parts, np.split(members, cuts), strict=True):
            part.append(indices)
    return [pictures.take(random.permutation(np.concatenate(part))) for part in parts]


def empty() -> Images:
    """Return no pictures."""
    return np.empty((0, 1, 1), np.uint8)


def none_of(pictures: Pictures) -> Pictures:
    """Return an empty part: a data set without held-out pictures."""
    return pictures.take(np.empty(0, np.int64))


def prepare(pictures: Pictures, spec: Preprocessing) -> Images:
    """Return the network's input, uint8 [N, height, width, channels], made by the function that serving uses."""
    wanted = (spec.height, spec.width, spec.channels)
    if not len(pictures):
        return np.empty((0, *wanted), np.uint8)
    if pictures.fitted is not None:
        if pictures.fitted != spec:
            raise ValueError(f"pictures fitted to {pictures.fitted} cannot be fitted to {spec}. This is a bug.")
        return pictures.images
    if pictures.images.shape[1:] == wanted and _whole(spec) == (spec.height, spec.width):
        return pictures.images  # serving leaves such a picture as it is
    return np.stack([image.from_array(picture, spec) for picture in pictures.images])


def _whole(spec: Preprocessing) -> tuple[int, int]:
    """Return height and width of the picture whose middle the input is, without resizing."""
    share = spec.crop_fraction if spec.fit == "crop" else 1.0
    return round(spec.height / share), round(spec.width / share)


def _uncropped(picture: Images, spec: Preprocessing) -> Images:
    """Return a picture of which serving keeps exactly this one, with black around it where it crops."""
    (height, width), (high, wide) = picture.shape[:2], _whole(spec)
    upper, left = round((high - height) / 2), round((wide - width) / 2)
    return np.pad(picture, ((upper, high - height - upper), (left, wide - width - left), (0, 0)))
