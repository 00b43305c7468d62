import json
from pathlib import Path

import pytest
import torch

from export.architectures import find
from tests.networks import lively, write_safetensors
from tests.processes import ServerProcess, run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a weight file of a perceptron, and labels."""
    write_safetensors(tmp_path / "mlp.safetensors", lively(find("mlp").build(1, 4), 1, 28).state_dict())
    (tmp_path / "labels.txt").write_text("cat\ndog\neel\nfox\n")
    return tmp_path


def export(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """Run `saccade export mlp --weights ...`; return exit code, standard output and standard error."""
    given = ["--weights", "mlp.safetensors", "--labels", "labels.txt", "--preset", "mnist"]
    done = run("export", "mlp", *given, *arguments, cwd=folder, seconds=110)
    return done.returncode, done.stdout, done.stderr


def test_weights_are_exported_and_served(folder: Path) -> None:
    """`saccade export ARCHITECTURE --weights FILE` publishes a version that `saccade serve` serves, verified."""
    code, out, err = export(folder, "--name", "baseline", "--accuracy", "96.95")
    assert (code, err) == (0, "")
    assert out.startswith("models/baseline/1: parity ")
    assert "accuracy 96.95% as stated; next: saccade serve --repository models" in out
    with ServerProcess(folder / "models") as server:
        [model] = json.loads(run("models", "--address", server.address, "--json").stdout)
    assert (model["state"], model["verified"], model["architecture"]) == ("READY", True, "mlp")
    assert model["labels"] == ["cat", "dog", "eel", "fox"]
    assert model["accuracy"] == pytest.approx(0.9695)
    assert model["data"].startswith("weights mlp.safetensors, SHA-256 ")


def test_weights_that_do_not_fit(folder: Path) -> None:
    """Weights that do not fit end with exit code 1, one line that names keys and shapes, and nothing published."""
    torch.save({"layers.1.weight": torch.zeros(300, 3)}, folder / "mlp.safetensors")
    code, _, err = export(folder)
    assert code == 1
    assert err.startswith("saccade: mlp.safetensors does not fit mlp with 4 classes (labels.txt) and 1 channels")
    assert "5 missing (layers.1.bias (300,), layers.3.weight (100, 300), layers.3.bias (100,), ...)" in err
    assert "layers.1.weight: expected (300, 784), got (300, 3)" in err
    assert len(err.splitlines()) == 1
    assert not (folder / "models").exists()
