"""Labelled pictures: digits (built in) and IDX files (MNIST and kin), split by a seed, prepared as serving does it."""

import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from service import image
from service.errors import SetupError
from service.manifest import Preprocessing

Images = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]

NAMES = ("digits", "idx")

_IDX_UINT8 = 0x08


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures as they came, uint8 [N, height, width] or [N, height, width, channels], and the index of their class."""

    images: Images
    labels: Indices

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Indices) -> "Pictures":
        """Return those at `indices`."""
        return Pictures(self.images[indices], self.labels[indices])


@dataclass(frozen=True, slots=True)
class Data:
    """A data set in three parts: to train on, to choose by, and to measure on once."""

    name: str
    classes: tuple[str, ...]
    train: Pictures
    validation: Pictures
    test: Pictures


def load(name: str, folder: Path | None = None, *, seed: int = 0) -> Data:
    """Return a data set by name; `idx` reads it from `folder`.

    Raises:
        SetupError: there is no such data set, or its files are missing or broken.
    """
    if name == "digits":
        return digits(seed)
    if name == "idx":
        if folder is None:
            raise SetupError("--data idx needs --data-folder, the folder with the *-ubyte or *-ubyte.gz files")
        return idx(folder, seed)
    raise SetupError(f"no data set {name!r}; there are: {', '.join(NAMES)}")


def digits(seed: int = 0) -> Data:
    """Return scikit-learn's built-in digits: 1,797 handwritten digits, 8x8, white on black; no download.

    70 % to train on, 15 % to choose by, 15 % held out, each with every class in the same share.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pictures = Pictures((bunch.images * (255 / 16)).round().astype(np.uint8), bunch.target.astype(np.int64))
    train, validation, test = split(pictures, (0.70, 0.15, 0.15), seed)
    return Data("digits", tuple("0123456789"), train, validation, test)


def idx(folder: Path, seed: int = 0) -> Data:
    """Return MNIST or a data set of its form: `train-*`, and `t10k-*` as held-out part where it is there.

    A twelfth of the training files (5,000 of MNIST's 60,000) is kept to choose by.
    """
    pictures = _idx_pair(folder, "train")
    train, validation = split(pictures, (11 / 12, 1 / 12), seed)
    has_test = any(folder.glob("t10k-images*"))
    test = _idx_pair(folder, "t10k") if has_test else validation.take(np.empty(0, np.int64))
    return Data(folder.name, tuple(str(label) for label in range(pictures.labels.max() + 1)), train, validation, test)


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


def prepare(pictures: Pictures, spec: Preprocessing) -> Images:
    """Return the network's input, uint8 [N, height, width, channels], made by the function that serving uses."""
    if not len(pictures):
        return np.empty((0, spec.height, spec.width, spec.channels), np.uint8)
    return np.stack([image.from_array(picture, spec) for picture in pictures.images])


def read_idx(path: Path) -> Images:
    """Return the array of an IDX file of unsigned bytes, plain or gzipped.

    Raises:
        SetupError: it is no such file, or it is cut.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise SetupError(f"{path} cannot be read: {error}") from None
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] != _IDX_UINT8:
        raise SetupError(f"{path} is no IDX file of unsigned bytes")
    header = 4 + 4 * raw[3]
    if len(raw) < header:
        raise SetupError(f"{path} ends within its header, after {len(raw)} bytes")
    shape = tuple(int(size) for size in np.frombuffer(raw[4:header], ">u4"))
    if len(raw) - header != int(np.prod(shape)):
        raise SetupError(f"{path} says it holds {shape}, but has {len(raw) - header:,} bytes")
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def _idx_pair(folder: Path, part: str) -> Pictures:
    images, labels = (read_idx(_find(folder, f"{part}-{what}-ubyte")) for what in ("images-idx3", "labels-idx1"))
    if len(images) != len(labels):
        raise SetupError(f"{folder}: {len(images)} {part} pictures, but {len(labels)} labels")
    return Pictures(images, labels.astype(np.int64))


def _find(folder: Path, name: str) -> Path:
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    raise SetupError(f"{folder} has no {name} or {name}.gz")
