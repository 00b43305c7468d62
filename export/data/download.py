"""Public data sets by name: fetched from their authors' addresses, kept only if their checksum is right."""

import hashlib
import http.client
import os
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from service.errors import SetupError

CHUNK = 1 << 20
TIMEOUT = 30.0
"""Seconds without a byte."""


@dataclass(frozen=True, slots=True)
class Files:
    """Where a data set lies: the address of its folder, and the MD5 sum of each file, as its authors publish it."""

    address: str
    sums: Mapping[str, str]


SETS = {
    # LeCun, Cortes, Burges; the authors' own server answers no longer, this mirror is the one that torchvision asks.
    "mnist": Files(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        {
            "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
    ),
    # Xiao, Rasul, Vollgraf: https://github.com/zalandoresearch/fashion-mnist
    "fashion-mnist": Files(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        {
            "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        },
    ),
    # Krizhevsky, Nair, Hinton; the binary form, which needs no unpickling.
    "cifar10": Files(
        "https://www.cs.toronto.edu/~kriz/",
        {"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},
    ),
}


def fetch(
    name: str,
    folder: Path,
    *,
    sets: Mapping[str, Files] = SETS,
    on_bytes: Callable[[str, int, int], None] = lambda _name, _done, _total: None,
) -> None:
    """Fetch the files of a public data set that `folder` does not hold yet.

    A file appears under its name only when all of it is there and its sum is right.

    Args:
        name: one of `sets`.
        folder: it is made.
        sets: what there is.
        on_bytes: told a file's name, how many bytes are there, and how many it has (0 if the server does not say).

    Raises:
        SetupError: there is no such set, the server cannot be reached, or a sum is wrong.
    """
    if name not in sets:
        raise SetupError(f"no public address of {name!r} is known; there are: {', '.join(sets)}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(f"{folder} cannot be made: {error.strerror}; name another place by --data-folder") from None
    for file, expected in sets[name].sums.items():
        path = folder / file
        if not path.is_file():
            _fetch(sets[name].address + file, path, expected, on_bytes)


def _fetch(address: str, path: Path, expected: str, on_bytes: Callable[[str, int, int], None]) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")  # two commands may fetch the same data at once
    # MD5 is what the authors publish: it tells a broken download, and the data are not run.
    digest, done = hashlib.md5(usedforsecurity=False), 0
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT) as answer, partial.open("wb") as file:  # noqa: S310 - ours
            total = int(answer.headers.get("Content-Length") or 0)
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                on_bytes(path.name, done, total)
        if digest.hexdigest() != expected:
            raise SetupError(
                f"{address} gave {done:,} bytes with MD5 {digest.hexdigest()}, but it should be {expected}: "
                "nothing was kept; try again, or fetch it by another way"
            )
        partial.replace(path)
    except (http.client.HTTPException, OSError) as error:
        raise SetupError(
            f"{address} could not be fetched: {error}; put {path.name} into {path.parent} yourself"
        ) from None
    finally:
        partial.unlink(missing_ok=True)
