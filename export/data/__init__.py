"""Labelled pictures by name: digits (built in), IDX files, CIFAR-10, folders and zip files of class folders."""

from pathlib import Path

import numpy as np

from export.data import folders, idx
from export.data.idx import read_idx
from export.data.pictures import Data, Images, Indices, Pictures, prepare, split
from service.errors import SetupError

__all__ = ["NAMES", "Data", "Images", "Indices", "Pictures", "digits", "load", "prepare", "read_idx", "split"]

NAMES = ("digits", "idx", "cifar10", "folder")


def load(name: str, folder: Path | None = None, *, seed: int = 0) -> Data:
    """Return a data set by name; all but `digits` are read from `folder`.

    Raises:
        SetupError: there is no such data set, or its files are missing or broken.
    """
    if name == "digits":
        return digits(seed)
    if name not in NAMES:
        raise SetupError(f"no data set {name!r}; there are: {', '.join(NAMES)}")
    if folder is None:
        raise SetupError(f"--data {name} needs --data-folder, the folder with the *-ubyte or *-ubyte.gz files")
    if name == "idx":
        return idx.load(folder, seed)
    return folders.load(folder, seed, name=name)


def digits(seed: int = 0) -> Data:
    """Return scikit-learn's built-in digits: 1,797 handwritten digits, 8x8, white on black; no download.

    70 % to train on, 15 % to choose by, 15 % held out, each with every class in the same share.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pictures = Pictures((bunch.images * (255 / 16)).round().astype(np.uint8), bunch.target.astype(np.int64))
    train, validation, test = split(pictures, (0.70, 0.15, 0.15), seed)
    return Data("digits", tuple("0123456789"), train, validation, test)
