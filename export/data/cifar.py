"""CIFAR-10 as its authors give it, in the binary and the python form (https://www.cs.toronto.edu/~kriz/cifar.html)."""

import io
import pickle
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from export.data.pictures import Data, Images, Pictures, none_of, split
from service.errors import SetupError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SHARE = 0.1
"""Of every class, kept to choose by: 5,000 of 50,000, as in section 4.2 of the ResNet paper."""

_SIDE, _CHANNELS = 32, 3
_PIXELS = _SIDE * _SIDE * _CHANNELS
_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
_TEST = "test_batch"
_ARCHIVES = ("cifar-10-binary.tar.gz", "cifar-10-python.tar.gz")

Read = Callable[[str], bytes | None]
"""The content of a file of the set by its name; None where it is not there."""


def find(folder: Path) -> Read | None:
    """Return what reads the set's files out of a folder, a folder in it or an archive; None if there are none.

    The archive is in the folder, or given itself.
    """
    for place in (folder, folder / "cifar-10-batches-bin", folder / "cifar-10-batches-py"):
        if (place / _TRAIN[0]).is_file() or (place / f"{_TRAIN[0]}.bin").is_file():
            return lambda name, place=place: _content(place / name)  # type: ignore[misc]
    for archive in (folder, *(folder / name for name in _ARCHIVES)):
        if archive.is_file() and archive.name in _ARCHIVES:
            return _unpacked(archive).get
    return None


def load(folder: Path, read: Read, seed: int = 0) -> Data:
    """Return the 50,000 pictures, a tenth of every class kept to choose by, and the 10,000 of the official test split.

    Where the test batch is missing, there are none to measure on.

    Raises:
        SetupError: a batch is missing, cut, or no file of this set.
    """
    batches = [_batch(folder, read, name) for name in _TRAIN]
    missing = [name for name, batch in zip(_TRAIN, batches, strict=True) if batch is None]
    if missing:
        raise SetupError(f"{folder}: {', '.join(missing)} missing; CIFAR-10 has five batches to train on")
    pictures = _joined([batch for batch in batches if batch is not None])
    train, validation = split(pictures, (1 - SHARE, SHARE), seed)
    return Data("cifar10", CLASSES, train, validation, _batch(folder, read, _TEST) or none_of(pictures))


def _joined(parts: list[Pictures]) -> Pictures:
    return Pictures(np.concatenate([part.images for part in parts]), np.concatenate([part.labels for part in parts]))


def _batch(folder: Path, read: Read, name: str) -> Pictures | None:
    binary = read(f"{name}.bin")
    if binary is not None:
        return _binary(folder / f"{name}.bin", binary)
    pickled = read(name)
    return None if pickled is None else _python(folder / name, pickled)


def _binary(path: Path, content: bytes) -> Pictures:
    """Return a batch in the binary form: for each picture a byte of label, then its red, green and blue pixels."""
    if not content or len(content) % (1 + _PIXELS):
        raise SetupError(f"{path} has {len(content):,} bytes, no multiple of {1 + _PIXELS}: cut, or no CIFAR-10 batch")
    rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + _PIXELS)
    return _pictures(path, rows[:, 1:], rows[:, 0].astype(np.int64))


def _python(path: Path, content: bytes) -> Pictures:
    """Return a batch in the python form: a pickled dictionary with an array `data` and a list `labels`."""
    try:
        batch = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
        rows, labels = np.asarray(batch[b"data"]), np.asarray(batch[b"labels"])
    except SetupError as error:
        raise SetupError(f"{path} {error}") from None
    except Exception as error:  # noqa: BLE001 - unpickling raises whatever the bytes lead it to
        raise SetupError(f"{path} is no CIFAR-10 batch in the python form: {type(error).__name__}") from None
    if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != _PIXELS or labels.dtype.kind not in "iu":
        raise SetupError(f"{path} holds {rows.dtype} {list(rows.shape)}; a CIFAR-10 batch is uint8 [N, {_PIXELS}]")
    return _pictures(path, rows, labels.astype(np.int64))


def _pictures(path: Path, rows: Images, labels: Any) -> Pictures:  # noqa: ANN401 - an array of whole numbers
    if len(rows) != len(labels) or (len(labels) and not 0 <= labels.min() <= labels.max() < len(CLASSES)):
        raise SetupError(f"{path}: {len(rows)} pictures, {len(labels)} labels; each needs one from 0 to 9")
    planes = rows.reshape(-1, _CHANNELS, _SIDE, _SIDE)
    return Pictures(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels)


class _ArraysOnly(pickle.Unpickler):
    """Reads what a pickled numpy array needs and nothing else: a pickle can call anything that it can name."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - as pickle has it
        """Return what numpy's arrays are made of; whatever else a file asks for is refused."""
        # Old files say numpy.core, as numpy called it until version 2.
        if module in {"numpy.core.multiarray", "numpy._core.multiarray"} and name == "_reconstruct":
            return np.empty(0).__reduce__()[0]
        if module == "numpy" and name in {"ndarray", "dtype"}:
            return getattr(np, name)
        if (module, name) == (
            "_codecs",
            "encode",
        ):  # how Python 3 writes bytes for Python 2: as text of the same numbers
            return _bytes_of
        raise SetupError(f"asks for {module}.{name}, which no array needs: it could run code, so it is not read")


def _bytes_of(text: str, _: str) -> bytes:
    return text.encode("latin1")


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror}") from None


def _unpacked(archive: Path) -> dict[str, bytes]:
    """Return the batches of an archive by their names; nothing is written to the disk."""
    return dict(_members(archive))


def _members(archive: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(archive) as opened:
            for member in opened:
                file = opened.extractfile(member) if member.isfile() else None
                name = Path(member.name).name
                if file is not None and name.removesuffix(".bin") in {*_TRAIN, _TEST}:
                    yield name, file.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise SetupError(f"{archive} cannot be read: {error}") from None
