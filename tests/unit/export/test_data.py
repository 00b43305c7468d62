import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from export import data
from service import image
from service.errors import SetupError
from service.manifest import Preprocessing


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write an IDX file of unsigned bytes, gzipped if its name says so."""
    raw = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


def write_set(folder: Path, part: str, count: int, suffix: str = "") -> np.ndarray:
    """Write pictures and labels of a part; return the pictures."""
    images = np.random.default_rng(0).integers(0, 256, (count, 6, 5), dtype=np.uint8)
    write_idx(folder / f"{part}-images-idx3-ubyte{suffix}", images)
    write_idx(folder / f"{part}-labels-idx1-ubyte{suffix}", (np.arange(count) % 3).astype(np.uint8))
    return images


def test_digits(digits: data.Data) -> None:
    """The built-in digits are 1,797 pictures of ten classes, full range, in three parts."""
    parts = (digits.train, digits.validation, digits.test)
    assert sum(len(part) for part in parts) == 1797
    assert digits.classes == tuple("0123456789")
    assert digits.train.images.dtype == np.uint8
    assert digits.train.images.max() == 255


def test_parts_are_disjoint_and_balanced() -> None:
    """The parts of a split share no picture, leave none out, and hold every class in the same share."""
    pictures = data.Pictures(np.arange(600, dtype=np.uint8).reshape(600, 1, 1), np.arange(600) % 3)
    marked = data.Pictures(np.arange(600).reshape(600, 1, 1), pictures.labels)  # type: ignore[arg-type]
    parts = data.split(marked, (0.5, 0.3, 0.2), seed=1)
    assert [len(part) for part in parts] == [300, 180, 120]
    assert sorted(np.concatenate([part.images.ravel() for part in parts])) == list(range(600))
    assert [np.bincount(part.labels).tolist() for part in parts] == [[100] * 3, [60] * 3, [40] * 3]


def test_split_follows_the_seed() -> None:
    """The same seed gives the same split, another seed another one."""
    pictures = data.Pictures(np.arange(90, dtype=np.uint8).reshape(90, 1, 1), np.arange(90) % 3)
    first, again, other = (data.split(pictures, (0.5, 0.5), seed)[0].images.ravel().tolist() for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files(tmp_path: Path, suffix: str) -> None:
    """IDX files are read as they were written, plain or gzipped, with t10k as the held-out part."""
    written = write_set(tmp_path, "train", 36, suffix)
    held_out = write_set(tmp_path, "t10k", 6, suffix)
    read = data.load("idx", tmp_path)
    assert len(read.train) == 33
    assert len(read.validation) == 3
    np.testing.assert_array_equal(read.test.images, held_out)
    np.testing.assert_array_equal(data.read_idx(tmp_path / f"train-images-idx3-ubyte{suffix}"), written)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no IDX file"),
        (b"PK\x03\x04", "no IDX file"),
        (b"\0\0\x0d\x01" + b"\0\0\0\1" + b"1234", "no IDX file"),
        (b"\0\0\x08\x01" + b"\0\0\0\5" + b"1234", "4 bytes"),
        (b"\0\0\x08\x03" + b"\0\0", "bytes"),
    ],
)
def test_broken_idx(tmp_path: Path, content: bytes, words: str) -> None:
    """A file that is cut or no IDX file is an error with its name."""
    path = tmp_path / "broken"
    path.write_bytes(content)
    with pytest.raises(SetupError, match=words) as caught:
        data.read_idx(path)
    assert str(path) in str(caught.value)


def test_broken_gzip(tmp_path: Path) -> None:
    """A cut gzip file is an error with its name."""
    path = tmp_path / "broken.gz"
    path.write_bytes(gzip.compress(b"\0" * 1000)[:-12])
    with pytest.raises(SetupError, match=r"broken\.gz"):
        data.read_idx(path)


def test_pictures_and_labels_must_agree(tmp_path: Path) -> None:
    """Another number of labels than of pictures is an error with both numbers."""
    write_set(tmp_path, "train", 36)
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.zeros(35, np.uint8))
    with pytest.raises(SetupError, match="36 train pictures, but 35 labels"):
        data.load("idx", tmp_path)


@pytest.mark.parametrize(
    ("what", "array"), [("images-idx3", np.zeros(36, np.uint8)), ("labels-idx1", np.zeros((36, 1), np.uint8))]
)
def test_number_of_axes(tmp_path: Path, what: str, array: np.ndarray) -> None:
    """Pictures that are no pictures, or labels that are no row of numbers, are an error with the file's name."""
    write_set(tmp_path, "train", 36)
    write_idx(tmp_path / f"train-{what}-ubyte", array)
    with pytest.raises(SetupError, match=f"train-{what}-ubyte holds .*it must have"):
        data.load("idx", tmp_path)


def test_numbers_without_pictures(tmp_path: Path) -> None:
    """A class without a picture is an error with its number, unless labels.txt names it."""
    write_set(tmp_path, "train", 36)
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.tile(np.array([1, 3], np.uint8), 18))
    with pytest.raises(SetupError, match=r"no picture of class 0, 2; .*labels\.txt"):
        data.load("idx", tmp_path)
    (tmp_path / "labels.txt").write_text("none\na\nb\nc\n")
    assert data.load("idx", tmp_path).classes == ("none", "a", "b", "c")


def test_too_few_to_choose_by(tmp_path: Path) -> None:
    """Where a twelfth of every class is less than one picture, the error says how many it takes."""
    write_set(tmp_path, "train", 18)
    with pytest.raises(SetupError, match="no picture is left to choose by; give seven or more of a class"):
        data.load("idx", tmp_path)
    write_set(tmp_path, "train", 21)
    assert len(data.load("idx", tmp_path).validation) == 3


def test_labels_beyond_the_classes(tmp_path: Path) -> None:
    """Files of more classes than the data set of that name has are an error with both numbers, of either part."""
    write_set(tmp_path, "train", 36)
    write_set(tmp_path, "t10k", 12)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.full(12, 46, np.uint8))
    with pytest.raises(SetupError, match=r"the t10k labels go up to 46, but there are 10 classes .*--data idx"):
        data.load("mnist", tmp_path)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_public_data_can_be_fetched(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a public data set is not there the error says what fetches it."""
    monkeypatch.chdir(tmp_path)  # without data/NAME
    with pytest.raises(SetupError, match="`saccade train RECIPE --download` fetches it"):
        data.load(name)


@pytest.mark.parametrize("name", ["idx", "folder"])
def test_own_data_cannot_be_fetched(name: str) -> None:
    """Data that have no public address are not said to be fetched."""
    with pytest.raises(SetupError, match="needs --data-folder") as caught:
        data.load(name)
    assert "--download" not in str(caught.value)


def test_missing_files(tmp_path: Path) -> None:
    """A folder without the files, or none given, is an error that names what is missing."""
    with pytest.raises(SetupError, match="train-images-idx3-ubyte"):
        data.load("idx", tmp_path)
    with pytest.raises(SetupError, match="--data-folder"):
        data.load("idx")
    with pytest.raises(SetupError, match="digits, idx, mnist, fashion-mnist, cifar10, folder"):
        data.load("nothing")


def test_prepared_as_serving_does(digits: data.Data) -> None:
    """The network's input is what serving makes of the picture's PNG file."""
    spec = Preprocessing(height=28, width=28, channels=1)
    some = digits.validation.take(np.arange(5))
    served = np.stack([image.decode(image.encode_png(picture), spec, max_pixels=10000) for picture in some.images])
    np.testing.assert_array_equal(data.prepare(some, spec), served)


def test_classes_are_named(tmp_path: Path) -> None:
    """Classes are called as the data set's authors call them, as labels.txt says, or by their numbers."""
    write_set(tmp_path, "train", 36)
    assert data.load("idx", tmp_path).classes == ("0", "1", "2")
    assert data.load("fashion-mnist", tmp_path).classes[9] == "Ankle boot"
    (tmp_path / "labels.txt").write_text("cat\ndog\n\nbird\n")
    assert data.load("idx", tmp_path).classes == ("cat", "dog", "bird")


def test_too_few_names(tmp_path: Path) -> None:
    """A labels.txt that names fewer classes than there are is an error with both numbers."""
    write_set(tmp_path, "train", 36)
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    with pytest.raises(SetupError, match=r"labels\.txt names 2 classes, but the labels go up to 2"):
        data.load("idx", tmp_path)


@pytest.mark.parametrize("count", [0, 1])
def test_one_class(tmp_path: Path, count: int) -> None:
    """Files with pictures of one class, or none, are an error."""
    write_set(tmp_path, "train", count)
    with pytest.raises(SetupError, match="needs at least two"):
        data.load("idx", tmp_path)
