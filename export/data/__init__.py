"""Labelled pictures by name: digits (built in), IDX files, CIFAR-10, folders and zip files of class folders."""

from pathlib import Path

import numpy as np

from export.data import cifar, folders, idx
from export.data.download import SETS
from export.data.idx import read_idx
from export.data.pictures import Data, Images, Indices, Pictures, named, prepare, split
from export.extra import need_extra
from service.errors import SetupError
from service.manifest import Preprocessing

__all__ = ["NAMES", "Data", "Images", "Indices", "Pictures", "digits", "load", "named", "prepare", "read_idx", "split"]

USUAL = Path("data")
NAMES = ("digits", "idx", "mnist", "fashion-mnist", "cifar10", "folder")

_CLASSES: dict[str, tuple[str, ...]] = {
    "idx": (),
    "mnist": tuple("0123456789"),
    # Xiao, Rasul, Vollgraf: Fashion-MNIST, 2017, table 2, as their repository spells them.
    "fashion-mnist": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
}  # fmt: skip

IDX_FORM = frozenset(_CLASSES)
"""Data sets of one form of files, which all may be read as `idx`."""

_FILES = {
    "idx": "the folder with the *-ubyte or *-ubyte.gz files",
    "mnist": "the folder with the *-ubyte or *-ubyte.gz files",
    "fashion-mnist": "the folder with the *-ubyte or *-ubyte.gz files",
    "cifar10": "the folder with its batches, their archive, or class folders",
    "folder": "a folder or zip file of class folders",
}


def load(
    name: str,
    folder: Path | None = None,
    *,
    seed: int = 0,
    spec: Preprocessing | None = None,
    skip_bad: bool = False,
) -> Data:
    """Return a data set by name; all but `digits` are read from `folder`.

    Args:
        name: one of NAMES.
        folder: where its files are; a zip file too, where they are pictures; None: data/NAME, if it is there.
        seed: of the split.
        spec: what pictures of class folders are decoded for, which saves memory where they are large; None keeps sizes.
        skip_bad: leave out pictures of class folders that cannot be read; `bad` of the data names them.

    Raises:
        SetupError: there is no such data set, or its files are missing or broken.
    """
    if name == "digits":
        return digits(seed)
    if name not in NAMES:
        raise SetupError(
            f"no data set {name!r}; there are: {', '.join(NAMES)}; where one lies is said by --data-folder"
        )
    folder = folder or usual_folder(name)
    if folder is None:
        fetched = "; `saccade train RECIPE --download` fetches it" if name in SETS else ""
        raise SetupError(f"the data set {name} needs --data-folder, {_FILES[name]}{fetched}")
    if name in _CLASSES:
        return idx.load(folder, seed, name="" if name == "idx" else name, classes=_CLASSES[name])
    batches = cifar.find(folder) if name == "cifar10" else None
    if batches is not None:
        return cifar.load(folder, batches, seed)
    return folders.load(
        folder, seed, name="cifar10" if name == "cifar10" else "", how=folders.How(spec=spec, skip_bad=skip_bad)
    )


def usual_folder(name: str) -> Path | None:
    """Return data/NAME, where `saccade train --download` puts a data set, if it is there."""
    folder = USUAL / name
    return folder if folder.is_dir() else None


def digits(seed: int = 0) -> Data:
    """Return scikit-learn's built-in digits: 1,797 handwritten digits, 8x8, white on black; no download.

    70 % to train on, 15 % to choose by, 15 % held out, each with every class in the same share.
    """
    need_extra("sklearn")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pictures = Pictures((bunch.images * (255 / 16)).round().astype(np.uint8), bunch.target.astype(np.int64))
    train, validation, test = split(pictures, (0.70, 0.15, 0.15), seed)
    return Data("digits", tuple("0123456789"), train, validation, test)
