"""One command from a folder of pictures to a served model."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from service import image
from tests.processes import ServerProcess, run

COLOURS = {"blue": 2, "green": 1, "red": 0}


def write(folder: Path, count: int) -> Path:
    """Write `count` noisy pictures of each colour, 40x56, a folder for each."""
    random = np.random.default_rng(0)
    for name, channel in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 160, (40, 56, 3), dtype=np.uint8)
            pixels[..., channel] += 90
            (folder / name / f"{number}.png").write_bytes(image.encode_png(pixels))
    return folder


def test_train_and_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`saccade train ... --serve` ends as a server that knows the folders' names and tells the pictures apart."""
    photos = write(tmp_path / "photos", 40)
    for name, value in {"GRPC_PORT": "0", "METRICS_PORT": "0", "LOG_FORMAT": "json", "DRAIN_DELAY": "0"}.items():
        monkeypatch.setenv(f"SACCADE_{name}", value)
    words = [
        "train",
        "pictures-small",
        "--epochs",
        "3",
        "--data-folder",
        str(photos),
        "--repository",
        "models",
        "--serve",
    ]
    with ServerProcess(None, cwd=tmp_path, command=words, seconds=100) as server:
        pictures = [str(photos / name / "0.png") for name in COLOURS]
        asked = run("classify", "--json", "--address", server.address, *pictures)
        server.terminate()
        assert server.process.wait(30) == os.EX_OK
    assert [row["categories"][0]["label"] for row in json.loads(asked.stdout)] == list(COLOURS)
