import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from export import data
from export.data import folders
from service import image
from service.errors import SetupError
from service.manifest import Preprocessing

SPEC = Preprocessing(height=8, width=8, channels=3)


def picture(number: int, height: int = 6, width: int = 5) -> np.ndarray:
    """Return a coloured picture, every number another one."""
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write(folder: Path, classes: Sequence[str] = "ab", count: int = 10) -> Path:
    """Write folders of PNG pictures, `count` a class."""
    for index, word in enumerate(classes):
        (folder / word).mkdir(parents=True)
        for number in range(count):
            (folder / word / f"{number:02}.png").write_bytes(image.encode_png(picture(index * 1000 + number)))
    return folder


def zipped(folder: Path, path: Path, prefix: str = "") -> Path:
    """Pack a folder's files into a zip file."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, prefix + str(file.relative_to(folder)))
    return path


def test_class_folders(tmp_path: Path) -> None:
    """Each folder is a class of its name, in alphabetical order; a tenth of each is kept to choose by."""
    read = data.load("folder", write(tmp_path / "pets", "dc"))
    assert (read.name, read.classes) == ("pets", ("c", "d"))
    assert (len(read.train), len(read.validation), len(read.test)) == (18, 2, 0)
    assert sorted(read.validation.labels) == [0, 1]


def test_pictures_keep_their_labels(tmp_path: Path) -> None:
    """Every picture is there once, with the class of its folder."""
    read = data.load("folder", write(tmp_path / "pets"))
    for part in (read.train, read.validation):
        for pixels, label in zip(part.images, part.labels, strict=True):
            numbers = range(label * 1000, label * 1000 + 10)
            assert sum(np.array_equal(pixels, picture(number)) for number in numbers) == 1


@pytest.mark.parametrize("prefix", ["", "pets/", "some/where/"])
def test_zip(tmp_path: Path, prefix: str) -> None:
    """A zip file gives what the folder gives, whatever folder it holds everything in."""
    folder = write(tmp_path / "pets")
    unpacked, packed = (data.load("folder", path) for path in (folder, zipped(folder, tmp_path / "pets.zip", prefix)))
    np.testing.assert_array_equal(unpacked.train.images, packed.train.images)
    np.testing.assert_array_equal(unpacked.train.labels, packed.train.labels)
    assert packed.classes == unpacked.classes


def test_zip_of_folders_in_classes(tmp_path: Path) -> None:
    """In a zip file, too, a class is the folder at the top, whatever folders are in it."""
    folder = write(tmp_path / "pets" / "cats", "xy", count=10).parent
    write(folder / "dogs", "x", count=10)
    packed = data.load("folder", zipped(folder, tmp_path / "pets.zip"))
    assert packed.classes == ("cats", "dogs") == data.load("folder", folder).classes
    assert len(packed.train) == 27


@pytest.mark.parametrize("prefix", ["", "pets/"])
def test_parts_in_a_zip(tmp_path: Path, prefix: str) -> None:
    """Folders `train`, `val` and `test` in a zip file are the parts; no held-out picture is trained on."""
    folder = tmp_path / "pets"
    write(folder / "train", count=4)
    write(folder / "val", count=2)
    write(folder / "test", count=1)
    read = data.load("folder", zipped(folder, tmp_path / "pets.zip", prefix))
    assert (len(read.train), len(read.validation), len(read.test)) == (8, 4, 2)
    assert read.classes == ("a", "b")


def test_zip_with_a_picture_outside(tmp_path: Path) -> None:
    """A picture that lies in no folder of a zip file has no class and is left alone, as in a folder."""
    folder = write(tmp_path / "pets")
    (folder / "cover.png").write_bytes(image.encode_png(picture(5)))
    assert data.load("folder", zipped(folder, tmp_path / "pets.zip")).classes == ("a", "b")


@pytest.mark.parametrize("prefix", ["", "pets/"])
def test_hidden_folders_in_a_zip(tmp_path: Path, prefix: str) -> None:
    """Hidden folders of a zip file are no classes, as on disk, wherever they lie."""
    folder = write(tmp_path / "pets")
    write(folder / ".thumbs", "x", count=1)
    (folder / ".thumbs/x/00.png").rename(folder / ".thumbs/x.png")
    assert data.load("folder", zipped(folder, tmp_path / "pets.zip", prefix)).classes == ("a", "b")


def test_broken_member(tmp_path: Path) -> None:
    """A picture of a zip file whose compression is broken is a bad picture, named like any other."""
    path = tmp_path / "pets.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(write(tmp_path / "pets").rglob("*.png")):
            archive.writestr(str(file.relative_to(tmp_path / "pets")), file.read_bytes() + bytes(1000))
        start = archive.infolist()[0].header_offset + 30 + len("a/00.png")
    content = bytearray(path.read_bytes())
    content[start : start + 20] = b"\xff" * 20
    path.write_bytes(content)
    with pytest.raises(SetupError, match=r"a/00\.png"):
        data.load("folder", path)
    assert len(data.load("folder", path, skip_bad=True).bad) == 1


CROPPED = Preprocessing(height=8, width=8, channels=3, fit="crop", crop_fraction=0.5)


def test_a_file_of_a_fitted_picture(tmp_path: Path) -> None:
    """What was decoded for an input that keeps the middle is not cropped again: its file gives the very same pixels."""
    read = data.load("folder", write(tmp_path / "pets"), spec=CROPPED).train
    again = [image.decode(read.file(index), CROPPED, max_pixels=10_000) for index in range(len(read))]
    np.testing.assert_array_equal(np.stack(again), read.images)
    np.testing.assert_array_equal(data.prepare(read, CROPPED), read.images)


def test_whole_pictures_of_the_input_size_are_cropped(tmp_path: Path) -> None:
    """A whole picture that has the input's size is cropped in training, as serving crops it."""
    folder = write(tmp_path / "pets")
    whole = data.load("folder", folder).train
    spec = CROPPED.model_copy(update={"height": 6, "width": 5})
    served = [image.decode(whole.file(index), spec, max_pixels=10_000) for index in range(len(whole))]
    np.testing.assert_array_equal(data.prepare(whole, spec), np.stack(served))
    assert not np.array_equal(data.prepare(whole, spec), whole.images)


@pytest.mark.parametrize("word", ["val", "validation"])
def test_parts(tmp_path: Path, word: str) -> None:
    """Folders `train`, `val` and `test` are the parts, and nothing is split off."""
    write(tmp_path / "train", count=4)
    write(tmp_path / word, count=2)
    write(tmp_path / "test", count=1)
    read = data.load("folder", tmp_path)
    assert (len(read.train), len(read.validation), len(read.test)) == (8, 4, 2)


def test_zip_beside(tmp_path: Path) -> None:
    """A folder that holds `train.zip` is read like one that holds `train`."""
    zipped(write(tmp_path / "made"), tmp_path / "train.zip")
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "train.zip").rename(folder / "train.zip")
    assert len(data.load("cifar10", folder).train) == 18


def test_same_seed_same_split(tmp_path: Path) -> None:
    """The split follows the seed."""
    folder = write(tmp_path / "pets")
    first, again, other = (data.load("folder", folder, seed=seed).validation.images for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_bad_pictures_are_named(tmp_path: Path) -> None:
    """Pictures that cannot be read are an error with the names of their files and the way on."""
    folder = write(tmp_path / "pets")
    (folder / "a/03.png").write_bytes(b"no picture")
    (folder / "b/05.png").write_bytes((folder / "b/05.png").read_bytes()[:40])
    with pytest.raises(SetupError, match=r"a/03\.png.*b/05\.png.*--skip-bad"):
        data.load("folder", folder)


def test_bad_pictures_are_counted(tmp_path: Path) -> None:
    """With skip_bad they are left out, and the data say which."""
    folder = write(tmp_path / "pets")
    (folder / "a/03.png").write_bytes(b"no picture")
    read = data.load("folder", folder, skip_bad=True)
    assert len(read.train) + len(read.validation) == 19
    [told] = read.bad
    assert told.startswith(str(folder / "a/03.png"))


def test_many_bad_pictures(tmp_path: Path) -> None:
    """Of many bad pictures the error names three and counts the others."""
    folder = write(tmp_path / "pets")
    for number in range(5):
        (folder / f"a/0{number}.png").write_bytes(b"")
    with pytest.raises(SetupError, match="and 2 more"):
        data.load("folder", folder)


def test_empty_class(tmp_path: Path) -> None:
    """A class without a picture is an error with its name."""
    folder = write(tmp_path / "pets")
    (folder / "c").mkdir()
    (folder / "c/notes.txt").write_text("none yet")
    with pytest.raises(SetupError, match="no picture that can be read in c"):
        data.load("folder", folder)


@pytest.mark.parametrize("entry", ["c/", "c/notes.txt"])
@pytest.mark.parametrize("prefix", ["", "pets/"])
def test_empty_class_in_a_zip(tmp_path: Path, prefix: str, entry: str) -> None:
    """A class of a zip file without a picture is the same error as on disk."""
    path = zipped(write(tmp_path / "pets"), tmp_path / "pets.zip", prefix)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(prefix + entry, b"")
    with pytest.raises(SetupError, match="no picture that can be read in c"):
        data.load("folder", path)


def test_class_of_bad_pictures_only(tmp_path: Path) -> None:
    """Leaving out bad pictures may not leave a class empty."""
    folder = write(tmp_path / "pets", count=1)
    (folder / "b/00.png").write_bytes(b"")
    with pytest.raises(SetupError, match="no picture that can be read in b"):
        data.load("folder", folder, skip_bad=True)


@pytest.mark.parametrize("classes", ["", "a"])
def test_one_class(tmp_path: Path, classes: str) -> None:
    """One class or none is an error: there is nothing to tell apart."""
    (tmp_path / "pets").mkdir()
    write(tmp_path / "pets", classes)
    with pytest.raises(SetupError, match="at least two classes"):
        data.load("folder", tmp_path / "pets")


def test_strange_class(tmp_path: Path) -> None:
    """A class that only the other parts have is an error with its name."""
    write(tmp_path / "train", "ab")
    write(tmp_path / "val", "abz")
    with pytest.raises(SetupError, match="val: z: no such class"):
        data.load("folder", tmp_path)


def test_too_few_to_split(tmp_path: Path) -> None:
    """Where a tenth of every class is less than one picture, the error says what to give."""
    with pytest.raises(SetupError, match="ten or more of a class, or a folder `val`"):
        data.load("folder", write(tmp_path / "pets", count=2))


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04cut"])
def test_no_zip(tmp_path: Path, content: bytes | None) -> None:
    """A path that is not there or no zip file is an error with its name."""
    path = tmp_path / "pets.zip"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SetupError, match=r"pets\.zip"):
        data.load("folder", path)


def test_mixed_sizes(tmp_path: Path) -> None:
    """Pictures of several sizes keep them, and `prepare` makes of each what serving would."""
    folder = write(tmp_path / "pets")
    (folder / "a/00.png").write_bytes(image.encode_png(picture(0, 20, 9)))
    read = data.load("folder", folder)
    assert {picture.shape for picture in (*read.train.images, *read.validation.images)} == {(6, 5, 3), (20, 9, 3)}
    served = [
        image.decode(image.encode_png(np.asarray(pixels)), SPEC, max_pixels=10000) for pixels in read.train.images
    ]
    np.testing.assert_array_equal(data.prepare(read.train, SPEC), np.stack(served))


def test_decoded_for_an_input(tmp_path: Path) -> None:
    """With a spec, pictures are decoded straight to it, as serving does."""
    folder = write(tmp_path / "pets")
    (folder / "a/00.png").write_bytes(image.encode_png(picture(0, 20, 9)))
    read = data.load("folder", folder, spec=SPEC)
    assert read.train.images.shape == (18, 8, 8, 3)
    np.testing.assert_array_equal(read.train.images, data.prepare(data.load("folder", folder).train, SPEC))


def test_grey_among_coloured(tmp_path: Path) -> None:
    """Grey pictures among coloured ones of the same size become grey in three channels."""
    folder = write(tmp_path / "pets")
    (folder / "a/00.png").write_bytes(image.encode_png(picture(0)[:, :, 0]))
    read = data.load("folder", folder)
    assert read.train.images.shape == (18, 6, 5, 3)


def test_other_files_do_not_count(tmp_path: Path) -> None:
    """Text files, hidden folders and what archivers of Apple leave behind are no pictures and no classes."""
    folder = write(tmp_path / "pets")
    (folder / "a/readme.txt").write_text("read me")
    (folder / "a/._00.png").write_bytes(b"rubbish")
    (folder / ".cache").mkdir()
    (folder / "__MACOSX").mkdir()
    assert data.load("folder", folder).classes == ("a", "b")


@pytest.mark.parametrize(
    "name", ["train/.checkpoints/00.png", "train/a/.git/config", "train/__MACOSX/x", "about/notes.csv"]
)
def test_what_is_beside_the_pictures_of_a_zip(tmp_path: Path, name: str) -> None:
    """Hidden folders at any depth, and folders beside the one that holds all pictures, are no classes of a zip file."""
    folder = write(tmp_path / "pets/train").parent
    path = zipped(folder, tmp_path / "pets.zip", "pets/")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name if name.startswith("about") else f"pets/{name}", b"something else")
    assert data.load("folder", path).classes == ("a", "b")


def test_zip_of_windows(tmp_path: Path) -> None:
    r"""A zip file whose places are written with `\\` is read like others."""
    folder = write(tmp_path / "pets")
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            entry = zipfile.ZipInfo("x")
            entry.filename = str(file.relative_to(tmp_path)).replace("/", "\\")
            archive.writestr(entry, file.read_bytes())
    read = data.load("folder", tmp_path / "pets.zip")
    assert (read.classes, len(read.train)) == (("a", "b"), 18)


def test_hidden_folder_in_a_class_called_like_a_part(tmp_path: Path) -> None:
    """A class called `train` is one with a hidden folder in it too."""
    folder = write(tmp_path / "vehicles", ["bus", "train"])
    (folder / "train/.thumbnails").mkdir()
    assert data.load("folder", folder).classes == ("bus", "train")


def test_hidden_files_in_a_class(tmp_path: Path) -> None:
    """What lies in a hidden folder of a class is no picture of it, on disk and in a zip file."""
    folder = write(tmp_path / "pets")
    write(folder / "a", [".checkpoints"], count=5)
    for path in (folder, zipped(folder, tmp_path / "pets.zip")):
        read = data.load("folder", path)
        assert len(read.train) + len(read.validation) == 20


@pytest.mark.parametrize("name", ["x.heic", "x.AVIF"])
def test_pictures_of_other_formats_are_bad(tmp_path: Path, name: str) -> None:
    """A picture of a format that is not read is a bad one with its name, not left out unseen."""
    folder = write(tmp_path / "pets")
    (folder / "a" / name).write_bytes(b"a picture, perhaps")
    with pytest.raises(SetupError, match=f"a/{name}"):
        data.load("folder", folder)
    assert len(data.load("folder", folder, skip_bad=True).bad) == 1


def test_jfif(tmp_path: Path) -> None:
    """A picture is read whatever of its format's suffixes it has."""
    folder = write(tmp_path / "pets")
    (folder / "a/00.png").rename(folder / "a/00.jfif")
    read = data.load("folder", folder)
    assert len(read.train) + len(read.validation) == 20


def test_class_called_like_a_part(tmp_path: Path) -> None:
    """A folder called `train` with pictures alone is a class, on disk and in a zip file."""
    folder = write(tmp_path / "vehicles", ["bus", "train"])
    for path in (folder, zipped(folder, tmp_path / "vehicles.zip")):
        assert data.load("folder", path).classes == ("bus", "train")


def test_bad_pictures_leave_no_gap(tmp_path: Path) -> None:
    """Left-out pictures leave no gap among those that are decoded for an input."""
    folder = write(tmp_path / "pets")
    (folder / "a/04.png").write_bytes(b"rubbish")
    read = data.load("folder", folder, spec=SPEC, skip_bad=True)
    without = tmp_path / "without"
    folder.rename(without)
    (without / "a/04.png").unlink()
    np.testing.assert_array_equal(read.train.images, data.load("folder", without, spec=SPEC).train.images)


def test_more_than_the_memory(tmp_path: Path) -> None:
    """Pictures that take more memory than the machine has are refused with both figures."""
    folder = write(tmp_path / "pets")
    assert len(folders.load(folder, how=folders.How(spec=SPEC, memory=7680)).train) == 18
    with pytest.raises(SetupError, match=r"20 pictures of 8x8 take 7,680 bytes of memory.* this machine has 7,679"):
        folders.load(folder, how=folders.How(spec=SPEC, memory=7679))


def test_held_out_pictures_need_memory_once(tmp_path: Path) -> None:
    """Where a part to choose by is split off, pictures to train on are there twice for a while, held-out ones once."""
    write(tmp_path / "train")
    write(tmp_path / "test")
    assert len(folders.load(tmp_path, how=folders.How(spec=SPEC, memory=60 * 192)).test) == 20
    with pytest.raises(SetupError, match="40 pictures of 8x8 take 11,520 bytes"):
        folders.load(tmp_path, how=folders.How(spec=SPEC, memory=60 * 192 - 1))


def test_all_parts_need_memory(tmp_path: Path) -> None:
    """Of a folder with parts the pictures of all of them must fit, once: nothing is split off."""
    write(tmp_path / "train", count=4)
    write(tmp_path / "val", count=2)
    assert len(folders.load(tmp_path, how=folders.How(spec=SPEC, memory=12 * 192)).train) == 8
    with pytest.raises(SetupError, match="12 pictures of 8x8 take 2,304 bytes"):
        folders.load(tmp_path, how=folders.How(spec=SPEC, memory=12 * 192 - 1))
