"""Foreign models over a real socket: served without a word beside them, asked through the shipped client."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service import image
from tests.conftest import Connect, StartServer
from tests.foreign_models import SIDE, layer, write_foreign
from tests.onnx_models import probabilities, write_model

PICTURES = np.random.default_rng(5).integers(0, 256, (6, SIDE, SIDE, 3), dtype=np.uint8)
RAW = {"preprocessing": {"scale": 1.0, "fit": "stretch"}}


@pytest.mark.parametrize(
    "written",
    [{"batch": 1}, {"batch": 4}, {"ones": True}, {"ones": True, "last": ["Softmax"], "batch": "N"}],
    ids=["fixed at 1", "fixed at 4", "ones", "ones, free"],
)
def test_right_answers(written: dict[str, Any], start_server: StartServer, connect: Connect, repository: Path) -> None:
    """A foreign float model of a fixed batch, or with outputs [N, C, 1, 1], answers as the bare arithmetic does."""
    folder = write_foreign(repository / "foreign" / "1", gain=1.0, **written).parent
    (folder / "manifest.json").write_text(json.dumps(RAW))
    client = connect(start_server(repository))
    pngs = [image.encode_png(picture) for picture in PICTURES]
    answer = client.classify(*pngs[:3], *PICTURES[3:], model="foreign", top_k=4)
    expected = probabilities(PICTURES.transpose(0, 3, 1, 2), layer(gain=1.0))
    for row, best in zip(expected, answer.classifications, strict=True):
        assert [entry.index for entry in best] == np.argsort(-row).tolist()
        assert [entry.label for entry in best] == [f"class {entry.index}" for entry in best]
        np.testing.assert_allclose([entry.probability for entry in best], np.sort(row)[::-1], atol=1e-6)


def test_listed(start_server: StartServer, connect: Connect, repository: Path) -> None:
    """ListModels shows a foreign model as READY and unverified, its size and labels, and what was inferred."""
    write_foreign(repository / "foreign" / "1", graph_name="squeezenet_old")
    entry = next(entry for entry in connect(start_server(repository)).models() if entry.name == "foreign")
    assert (entry.state, entry.verified, entry.architecture) == ("READY", False, "squeezenet_old")
    assert (entry.height, entry.width, entry.channels, entry.max_batch_size) == (SIDE, SIDE, 3, 1)
    assert entry.labels == ("class 0", "class 1", "class 2", "class 3")
    assert "labels class 0 to class 3" in entry.reason
    assert "RGB pixels 0 to 1 with ImageNet's mean and deviation" in entry.reason


def test_our_own_says_nothing(start_server: StartServer, connect: Connect, repository: Path) -> None:
    """A model that says all of itself has no notice."""
    write_model(repository / "linear" / "2")
    assert [entry.reason for entry in connect(start_server(repository)).models()] == ["", ""]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "the file holds no graph"),
        (b"This is a text.\n", "not a whole ONNX file"),
        (b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "not a whole ONNX file"),
    ],
    ids=["empty", "text", "9 EB"],
)
def test_hostile_files(content: bytes, why: str, start_server: StartServer, connect: Connect, repository: Path) -> None:
    """A file that is no model has failed with the reason, and the others are served."""
    (repository / "bad" / "1").mkdir(parents=True)
    (repository / "bad" / "1" / "model.onnx").write_bytes(content)
    bad, good = connect(start_server(repository, ready="any")).models()
    assert (bad.state, good.state) == ("FAILED", "READY")
    assert why in bad.reason
