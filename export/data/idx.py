"""IDX files: MNIST and data sets of its form (http://yann.lecun.com/exdb/mnist, "The IDX file format")."""

import gzip
import zlib
from pathlib import Path

import numpy as np

from export.data.pictures import Data, Images, Indices, Pictures, none_of, split
from service.errors import SetupError

_UINT8 = 0x08


def load(folder: Path, seed: int = 0, *, name: str = "", classes: tuple[str, ...] = ()) -> Data:
    """Return MNIST or a data set of its form: `train-*`, and `t10k-*` as held-out part where it is there.

    A twelfth of the training files (5,000 of MNIST's 60,000) is kept to choose by. The classes are called as `classes`
    or the lines of `labels.txt` say, else by their numbers.

    Raises:
        SetupError: a file is missing or broken, or there are no two classes.
    """
    pictures = _pair(folder, "train")
    if len(np.unique(pictures.labels)) < 2:
        raise SetupError(f"{folder}: {len(pictures)} pictures of one class or none; a classifier needs at least two")
    classes = classes or _classes(folder, pictures.labels)
    train, validation = split(pictures, (11 / 12, 1 / 12), seed)
    if not len(validation):
        raise SetupError(f"{folder}: no picture is left to choose by; give seven or more of a class")
    has_test = any(folder.glob("t10k-images*"))
    test = _pair(folder, "t10k") if has_test else none_of(pictures)
    for part, read in (("train", pictures), ("t10k", test)):
        if len(read) and read.labels.max() >= len(classes):
            raise SetupError(
                f"{folder}: the {part} labels go up to {read.labels.max()}, but there are {len(classes)} classes "
                f"({', '.join(classes[:4])}, ...); files of other classes are read by --data idx, or --set data=idx"
            )
    return Data(name or folder.name, classes, train, validation, test)


def read_idx(path: Path) -> Images:
    """Return the array of an IDX file of unsigned bytes, plain or gzipped.

    Raises:
        SetupError: it is no such file, or it is cut.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise SetupError(f"{path} cannot be read: {error}") from None
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] != _UINT8:
        raise SetupError(f"{path} is no IDX file of unsigned bytes")
    header = 4 + 4 * raw[3]
    if len(raw) < header:
        raise SetupError(f"{path} ends within its header, after {len(raw)} bytes")
    shape = tuple(int(size) for size in np.frombuffer(raw[4:header], ">u4"))
    if len(raw) - header != int(np.prod(shape)):
        raise SetupError(f"{path} says it holds {shape}, but has {len(raw) - header:,} bytes")
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def _pair(folder: Path, part: str) -> Pictures:
    images, labels = (
        _read(_find(folder, f"{part}-{what}-ubyte"), axes)
        for what, axes in (("images-idx3", (3, 4)), ("labels-idx1", (1,)))
    )
    if len(images) != len(labels):
        raise SetupError(f"{folder}: {len(images)} {part} pictures, but {len(labels)} labels")
    return Pictures(images, labels.astype(np.int64))


def _read(path: Path, axes: tuple[int, ...]) -> Images:
    array = read_idx(path)
    if array.ndim not in axes:
        raise SetupError(f"{path} holds {array.shape}, an array of {array.ndim} axes; it must have {axes[0]}")
    return array


def _classes(folder: Path, labels: Indices) -> tuple[str, ...]:
    """Return what the lines of labels.txt say, else the numbers from 0, of which each must have a picture."""
    named, count = folder / "labels.txt", int(labels.max()) + 1
    if not named.is_file():
        without = sorted(set(range(count)) - set(labels.tolist()))
        if without:
            raise SetupError(
                f"{folder}: no picture of class {', '.join(map(str, without))}; if that is right, name the classes, a "
                f"line for each number from 0, in {named}"
            )
        return tuple(str(label) for label in range(count))
    lines = tuple(line.strip() for line in named.read_text().splitlines() if line.strip())
    if len(lines) < max(count, 2):
        raise SetupError(f"{named} names {len(lines)} classes, but the labels go up to {count - 1}")
    return lines


def _find(folder: Path, name: str) -> Path:
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    raise SetupError(f"{folder} has no {name} or {name}.gz")
