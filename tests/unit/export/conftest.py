"""A small trained network, made once for all tests of the training stage."""

from dataclasses import replace
from pathlib import Path

import pytest

from export import data, onnx_export, recipes
from export.checkpoint import Checkpoint
from export.train import train

QUICK = replace(recipes.find("lenet5-digits"), epochs=3)


@pytest.fixture(scope="session")
def digits() -> data.Data:
    """Return scikit-learn's digits, split."""
    return data.load("digits")


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, digits: data.Data) -> Path:
    """Return the folder of a short training run."""
    folder = tmp_path_factory.mktemp("run")
    train(QUICK, digits, folder)
    return folder


@pytest.fixture(scope="session")
def trained(run: Path) -> Checkpoint:
    """Return the checkpoint of the short run."""
    from export import checkpoint

    return checkpoint.load(run)


@pytest.fixture(scope="session")
def exported(trained: Checkpoint, digits: data.Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the exported file, manifest included."""
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    onnx_export.export_graph(trained, path)
    onnx_export.write_manifest(path, onnx_export.make_manifest(trained, digits, accuracy=trained.accuracy))
    return path
