"""Folders of pictures, one folder a class, on disk or in a zip file."""

import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np

from export.data.pictures import Data, Images, Pictures, none_of, split
from service import image
from service.errors import InvalidInput, SetupError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
MAX_PIXELS = 1 << 26
SHARE = 0.1
"""Of every class, kept to choose by where nothing else says which pictures are: 5,000 of CIFAR-10's 50,000."""


def load(path: Path, seed: int = 0, *, name: str = "") -> Data:
    """Return the pictures of a zip file or a folder of class folders; a tenth of every class is kept to choose by.

    Raises:
        SetupError: there are no classes, or a picture cannot be read.
    """
    if not path.is_file():
        zipped = path / "train.zip"
        path = zipped if zipped.is_file() else path
    with zipfile.ZipFile(path) as archive:
        members = _by_class(archive.namelist())
        classes = tuple(sorted(members))
        paths = [(member, label) for label, word in enumerate(classes) for member in members[word]]
        images = np.stack(list(_pictures(archive, path, [member for member, _ in paths])))
    pictures = Pictures(images, np.array([label for _, label in paths], np.int64))
    train, validation = split(pictures, (1 - SHARE, SHARE), seed)
    return Data(name or path.stem, classes, train, validation, none_of(pictures))


def _by_class(names: list[str]) -> dict[str, list[str]]:
    classes: dict[str, list[str]] = {}
    for name in sorted(names):
        path = PurePosixPath(name)
        if path.suffix.lower() in SUFFIXES:
            classes.setdefault(path.parent.name, []).append(name)
    return classes


def _pictures(archive: zipfile.ZipFile, path: Path, names: list[str]) -> Iterator[Images]:
    def decode(name: str) -> Images:
        try:
            return image.read(archive.read(name), max_pixels=MAX_PIXELS)
        except InvalidInput as error:
            raise SetupError(f"{path}: {name} cannot be read: {error}") from None

    with ThreadPoolExecutor(2) as decoders:
        yield from decoders.map(decode, names)
