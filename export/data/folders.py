"""Folders of pictures, one folder a class, on disk or in a zip file."""

import os
import zipfile
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from export.data.pictures import Data, Images, Pictures, empty, none_of, split
from service import image
from service.errors import InvalidInput, SetupError
from service.manifest import Preprocessing

SUFFIXES = {".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
OTHERS = {
    ".heic",
    ".heif",
    ".avif",
    ".jp2",
    ".jxl",
    ".ico",
    ".tga",
    ".ppm",
    ".pgm",
    ".psd",
    ".svg",
    ".dng",
    ".cr2",
    ".nef",
}
"""Pictures too, which nothing here reads: they are told as bad ones, so that nobody misses them unawares."""
MAX_PIXELS = 1 << 26
SHARE = 0.1
"""Of every class, kept to choose by where no folder says which pictures are: 5,000 of CIFAR-10's 50,000."""
PARTS = {"train": ("train",), "validation": ("val", "validation", "valid"), "test": ("test",)}
"""What a part of the data may be called, as a folder or as a zip file."""
SHOWN = 3
"""How many bad pictures an error names."""

_APPLE = "__MACOSX"
"""What Apple's archiver adds: files that are called like pictures and are none."""

_UNREADABLE = (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError)
"""What zipfile raises of one member: broken, cut or changed, encrypted, or packed in a way that it does not know."""

Picture = tuple[str, str]
"""Name of its class, and name of its file within the source."""


@dataclass(frozen=True, slots=True)
class Source:
    """A place with class folders: where it is, its pictures in order, and what reads one."""

    path: Path
    pictures: tuple[Picture, ...]
    classes: tuple[str, ...]
    read: Callable[[str], bytes]


@dataclass(frozen=True, slots=True)
class How:
    """How pictures are read.

    Attributes:
        spec: what they are decoded for; None for their own size.
        skip_bad: whether bad ones are left out.
        memory: most bytes that those decoded for `spec` may take; 0 for what this machine has for each process.
    """

    spec: Preprocessing | None = None
    skip_bad: bool = False
    memory: int = 0


def load(path: Path, seed: int = 0, *, name: str = "", how: How | None = None) -> Data:
    """Return the pictures of a folder or zip file of class folders, or of its parts `train`, `val` and `test`.

    Where there is no part to choose by, a tenth of every class is kept for it.

    Raises:
        SetupError: there are no two classes, a class is empty or a picture is bad; names the files.
    """
    how = how or How()
    parts = _parts(path)
    classes = _classes(parts["train"])
    if how.spec is not None:
        _check_room(path, parts, how.spec, how.memory or _memory())
    bad: list[str] = []
    read = {part: _read(source, classes, how, bad) for part, source in parts.items()}
    if bad and not how.skip_bad:
        more = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        raise SetupError(f"{'; '.join(bad[:SHOWN])}{more}: mend or delete them, or go on without by --skip-bad")
    _check(parts["train"], classes, read["train"])
    if "validation" in read:
        train, validation = read["train"], read["validation"]
    else:
        train, validation = split(read["train"], (1 - SHARE, SHARE), seed)
    if not len(validation):
        raise SetupError(f"{path}: no picture is left to choose by; give ten or more of a class, or a folder `val`")
    return Data(name or path.stem, classes, train, validation, read.get("test", none_of(train)), tuple(bad))


def _parts(path: Path) -> dict[str, Source]:
    """Return where each part lies: in folders or zip files of their names, or all in one place to train on."""
    if path.is_file():
        return _zipped(path)
    if not path.is_dir():
        raise SetupError(f"{path} is not there; give the folder or zip file of class folders")
    found = {}
    for part, words in PARTS.items():
        for word in words:
            if _has_folders(path / word):
                found[part] = _listed(path / word)
            elif (path / f"{word}.zip").is_file():
                found[part] = _zipped(path / f"{word}.zip", whole=True)["train"]
    return found if "train" in found else {"train": _listed(path)}


def _has_folders(folder: Path) -> bool:
    """Return whether it can be a part; one with pictures alone is a class that is called like a part."""
    return folder.is_dir() and any(entry.is_dir() and not _is_hidden((entry.name,)) for entry in folder.iterdir())


def _listed(folder: Path) -> Source:
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not _is_hidden((entry.name,)))
    pictures = [
        (word, str(file.relative_to(folder)))
        for word in classes
        for file in sorted((folder / word).rglob("*"))
        if file.is_file() and _is_picture(file.name) and not _is_hidden(file.relative_to(folder).parts)
    ]
    return Source(folder, tuple(pictures), tuple(classes), lambda name: (folder / name).read_bytes())


def _zipped(path: Path, *, whole: bool = False) -> dict[str, Source]:
    """Return where each part lies in a zip file, as in a folder; of one that is a part itself it is all `train`."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise SetupError(f"{path} is no zip file that can be read: {error}") from None
    # A folder's own entry, which ends in a slash, is as good a sign of a class as a file in it.
    names = {name: _place(name) for name in archive.namelist()}
    names = _unwrapped({name: parts for name, parts in names.items() if len(parts) > 1 and not _is_hidden(parts)})
    found = {} if whole else {part: _below(names, words) for part, words in PARTS.items()}
    sources = {part: _source(path, inside, archive) for part, inside in found.items() if inside}
    return sources if "train" in sources else {"train": _source(path, names, archive)}


def _place(name: str) -> tuple[str, ...]:
    r"""Return the folders and the name of an entry of a zip file, of one with Windows' `\` between them too."""
    path = name if "/" in name else name.replace("\\", "/")
    return (*PurePosixPath(path).parts, *[""] * path.endswith("/"))


def _unwrapped(names: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Return files with their places in a zip; some zips hold all pictures in one more folder, which is left out."""
    while True:
        tops = {parts[0] for name, parts in names.items() if _is_picture(name)}
        inside = {name: parts[1:] for name, parts in names.items() if len(parts) > 2 and parts[0] in tops}
        if len(tops) != 1 or not any(_is_picture(name) for name in inside):
            return names
        names = inside


def _below(names: dict[str, tuple[str, ...]], words: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Return the files below folders that are called so, and their places there."""
    return {name: parts[1:] for name, parts in names.items() if parts[0] in words and len(parts) > 2}


def _source(path: Path, names: dict[str, tuple[str, ...]], archive: zipfile.ZipFile) -> Source:
    pictures = sorted((parts[0], name) for name, parts in names.items() if _is_picture(name))
    return Source(path, tuple(pictures), tuple(sorted({parts[0] for parts in names.values()})), archive.read)


def _is_picture(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES | OTHERS


def _is_hidden(parts: Sequence[str]) -> bool:
    """Return whether a place is within what is no part of the data: hidden folders and files, and Apple's."""
    return any(part.startswith(".") or part == _APPLE for part in parts)


def _classes(source: Source) -> tuple[str, ...]:
    classes = tuple(word for word in source.classes if word)
    if len(classes) < 2:
        raise SetupError(
            f"{source.path}: folders of pictures in it: {len(classes)}{': ' * bool(classes)}{', '.join(classes)}; "
            "a classifier needs at least two classes, each a folder of its own"
        )
    return classes


def _read(source: Source, classes: tuple[str, ...], how: How, bad: list[str]) -> Pictures:
    """Return the pictures of a part; tell of those that are bad."""
    number = {word: index for index, word in enumerate(classes)}
    strange = sorted({word for word, _ in source.pictures} - set(number))
    if strange:
        raise SetupError(f"{source.path}: {', '.join(strange)}: no such class in the pictures to train on")

    spec = how.spec
    room = None if spec is None else np.empty((len(source.pictures), spec.height, spec.width, spec.channels), np.uint8)

    def decode(index: int) -> Images | str:
        name = source.pictures[index][1]
        try:
            encoded = source.read(name)
            if spec is None or room is None:
                return image.read(encoded, max_pixels=MAX_PIXELS)
            decoded = image.decode(encoded, spec, max_pixels=MAX_PIXELS)
            room[index] = decoded
            return decoded[:0]  # only that it is good is asked below
        except (InvalidInput, OSError, *_UNREADABLE) as error:
            return f"{source.path / name}: {error}"

    # Decoders drop the GIL: 2,000 small JPEGs take 0.55 s on one thread, the reading included.
    with ThreadPoolExecutor(os.cpu_count()) as decoders:
        decoded = list(decoders.map(decode, range(len(source.pictures))))
    bad += [picture for picture in decoded if isinstance(picture, str)]
    good = [index for index, picture in enumerate(decoded) if not isinstance(picture, str)]
    labels = np.array([number[source.pictures[index][0]] for index in good], np.int64)
    if room is not None:
        return Pictures(room if len(good) == len(room) else room[good], labels, spec)
    return Pictures(_together([picture for picture in decoded if not isinstance(picture, str)]), labels)


def _check_room(path: Path, parts: dict[str, Source], spec: Preprocessing, memory: int) -> None:
    """Refuse more pictures than can be held decoded, one byte a pixel and channel, by each process.

    Where a part to choose by is yet to be split off, both parts are copies.
    """
    count = sum(len(source.pictures) for source in parts.values())
    copies = 0 if "validation" in parts else len(parts["train"].pictures)
    needed = (count + copies) * spec.height * spec.width * spec.channels
    if needed > memory:
        copied = " (those to train on twice, while a part to choose by is split off)" if copies else ""
        raise SetupError(
            f"{path}: {count:,} pictures of {spec.height}x{spec.width} take {needed:,} bytes of memory{copied}, "
            f"and this machine has {memory:,} for a process; give fewer pictures or an architecture of smaller input"
        )


def _memory() -> int:
    """Return the bytes of this machine's memory that each process of a torchrun may have."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _together(pictures: list[Images]) -> Images:
    """Return one array of bytes; where sizes differ, an array of arrays, which `prepare` makes equal."""
    if not pictures:
        return empty()
    if len({picture.shape for picture in pictures}) == 1:
        return np.stack(pictures)
    if {picture.shape[:2] for picture in pictures} == {pictures[0].shape[:2]}:  # grey ones among coloured ones
        return np.stack([np.dstack([picture] * 3) if picture.ndim == 2 else picture for picture in pictures])
    several = np.empty(len(pictures), dtype=object)
    several[:] = pictures
    return several


def _check(source: Source, classes: tuple[str, ...], pictures: Pictures) -> None:
    counts = np.bincount(pictures.labels, minlength=len(classes))
    without = [word for word, count in zip(classes, counts, strict=True) if not count]
    if without:
        raise SetupError(
            f"{source.path}: no picture that can be read in {', '.join(without)}; "
            f"add some ({', '.join(sorted(SUFFIXES))}) or delete the folder"
        )
