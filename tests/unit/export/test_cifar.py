import io
import os
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export import data
from service.errors import SetupError

BATCHES = [f"data_batch_{number}" for number in range(1, 6)]
COUNT = 20


def planes(count: int = COUNT, seed: int = 0) -> np.ndarray:
    """Return rows of 3,072 bytes, red, green and blue planes, as CIFAR-10 has them."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def labels(count: int = COUNT) -> list[int]:
    """Return labels, every class equally often."""
    return [number % 10 for number in range(count)]


def binary(rows: np.ndarray) -> bytes:
    """Return a batch in the binary form."""
    return b"".join(bytes([label]) + row.tobytes() for label, row in zip(labels(len(rows)), rows, strict=True))


def pickled(rows: np.ndarray) -> bytes:
    """Return a batch in the python form, as Python 2 and its numpy wrote it: protocol 2, plain strings."""
    pixels = rows.tobytes()
    return b"".join(
        [
            b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\n",
            b"cnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01",
            b"K" + bytes([len(rows)]) + b"M\x00\x0c\x86",
            b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
            b"\x89T" + struct.pack("<i", len(pixels)) + pixels + b"tb",
            b"U\x06labels](" + b"".join(b"K" + bytes([label]) for label in labels(len(rows))) + b"eu.",
        ]
    )


def write(folder: Path, form: str, test: bool = True) -> None:  # noqa: FBT001, FBT002 - a switch of a fixture
    """Write six batches, each of other pixels."""
    folder.mkdir(exist_ok=True)
    for seed, name in enumerate([*BATCHES, *(["test_batch"] if test else [])]):
        rows = planes(seed=seed)
        if form == "binary":
            (folder / f"{name}.bin").write_bytes(binary(rows))
        else:
            (folder / name).write_bytes(pickled(rows))


@pytest.mark.parametrize("form", ["binary", "python"])
def test_batches(tmp_path: Path, form: str) -> None:
    """Both forms are read: a tenth of every class is split off five batches, the test batch is apart, classes named."""
    write(tmp_path, form)
    read = data.load("cifar10", tmp_path)
    assert read.classes[0] == "airplane"
    assert read.classes[9] == "truck"
    assert (len(read.train), len(read.validation), len(read.test)) == (90, 10, COUNT)
    assert sorted(read.validation.labels) == list(range(10))
    assert read.train.images.shape == (90, 32, 32, 3)


@pytest.mark.parametrize("form", ["binary", "python"])
def test_pixels(tmp_path: Path, form: str) -> None:
    """A picture's first 1,024 bytes are its red plane, row by row."""
    write(tmp_path, form)
    picture = data.load("cifar10", tmp_path).test.images[3]
    row = planes(seed=5)[3]
    np.testing.assert_array_equal(picture[:, :, 0], row[:1024].reshape(32, 32))
    np.testing.assert_array_equal(picture[:, :, 2], row[2048:].reshape(32, 32))


def test_both_forms_give_the_same(tmp_path: Path) -> None:
    """The binary and the python form of the same pictures give the same data."""
    write(tmp_path / "a", "binary")
    write(tmp_path / "b", "python")
    first, second = (data.load("cifar10", tmp_path / name, seed=3) for name in "ab")
    np.testing.assert_array_equal(first.train.images, second.train.images)
    np.testing.assert_array_equal(first.train.labels, second.train.labels)


def test_folder_of_the_archive(tmp_path: Path) -> None:
    """The folder in which the authors' archive unpacks itself is found."""
    write(tmp_path / "cifar-10-batches-bin", "binary")
    assert len(data.load("cifar10", tmp_path).train) == 90


@pytest.mark.parametrize(("form", "name"), [("binary", "cifar-10-binary.tar.gz"), ("python", "cifar-10-python.tar.gz")])
def test_archive(tmp_path: Path, form: str, name: str) -> None:
    """The authors' archive, or the folder that it is in, is read as it is, and nothing is unpacked beside it."""
    write(tmp_path / "made", form)
    folder = tmp_path / "data"
    folder.mkdir()
    with tarfile.open(folder / name, "w:gz") as archive:
        archive.add(tmp_path / "made", "cifar-10-batches")
    for given in (folder, folder / name):
        assert len(data.load("cifar10", given).test) == COUNT
    assert [path.name for path in folder.iterdir()] == [name]


def test_no_test_batch(tmp_path: Path) -> None:
    """Without the test batch there is nothing to measure on, and the rest is read."""
    write(tmp_path, "binary", test=False)
    assert len(data.load("cifar10", tmp_path).test) == 0


def test_missing_batch(tmp_path: Path) -> None:
    """A missing batch is an error with its name."""
    write(tmp_path, "binary")
    (tmp_path / "data_batch_4.bin").unlink()
    with pytest.raises(SetupError, match="data_batch_4 missing"):
        data.load("cifar10", tmp_path)


def reduced(function: Any, *arguments: Any) -> bytes:  # noqa: ANN401 - whatever a pickle may call
    """Return a pickle that calls a function when it is loaded."""

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return function, arguments

    return pickle.dumps({b"data": Trap(), b"labels": []}, protocol=2)


@pytest.mark.parametrize("call", [(os.mkdir, "{}"), (eval, "__import__('os').mkdir({!r})"), (np.load, "{}")])
def test_a_pickle_cannot_run_code(tmp_path: Path, call: tuple[Any, str]) -> None:
    """A python batch that would call something is refused with the name of it, and the call is not made."""
    write(tmp_path, "python")
    function, argument = call
    made = tmp_path / "made"
    (tmp_path / "data_batch_2").write_bytes(reduced(function, argument.format(str(made))))
    with pytest.raises(SetupError, match=r"data_batch_2 asks for .*, which no array needs"):
        data.load("cifar10", tmp_path)
    assert not made.exists()


@pytest.mark.parametrize(
    ("form", "content", "words"),
    [
        ("binary", b"", "0 bytes, no multiple of 3073"),
        ("binary", binary(planes())[:-1], "no multiple of 3073: cut"),
        ("binary", b"\x0a" + bytes(3072), "each needs one from 0 to 9"),
        ("python", b"", "is no CIFAR-10 batch in the python form"),
        ("python", pickled(planes())[:100], "is no CIFAR-10 batch in the python form"),
        ("python", b"\x80\x02]q\x00.", "is no CIFAR-10 batch in the python form"),
        ("python", pickle.dumps({b"data": np.zeros((2, 9), np.uint8), b"labels": [0, 1]}), "a CIFAR-10 batch is uint8"),
        ("python", pickle.dumps({b"data": np.zeros((2, 3072)), b"labels": [0, 1]}), "holds float64"),
        ("python", pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]}), "2 pictures, 1 labels"),
    ],
)
def test_broken_batches(tmp_path: Path, form: str, content: bytes, words: str) -> None:
    """A batch that is cut or something else is an error with its name."""
    write(tmp_path, form)
    path = tmp_path / ("data_batch_1.bin" if form == "binary" else "data_batch_1")
    path.write_bytes(content)
    with pytest.raises(SetupError, match=words) as caught:
        data.load("cifar10", tmp_path)
    assert str(path) in str(caught.value)


def test_cut_archive(tmp_path: Path) -> None:
    """A cut archive is an error with its name."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        content = binary(planes())
        member = tarfile.TarInfo("data_batch_1.bin")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(file.getvalue()[:5000])
    with pytest.raises(SetupError, match=r"cifar-10-binary\.tar\.gz cannot be read"):
        data.load("cifar10", tmp_path)
