from dataclasses import replace
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np
import pytest
import torch

from export import architectures, checkpoint
from export.data import Data
from export.finetune import doubts, freeze, head_of, start_from
from export.run import load_state
from export.train import train
from service.errors import SetupError
from tests.networks import write_safetensors
from tests.unit.export.conftest import QUICK


def network(classes: int = 10, architecture: str = "lenet5") -> torch.nn.Module:
    """Return an untrained network."""
    torch.manual_seed(7)
    return architectures.find(architecture).build(1, classes)


def test_another_split_is_doubtful(run: Path) -> None:
    """A run that builds on one of the same data and another seed may be chosen by pictures that the other knew."""
    assert doubts(replace(QUICK, start=str(run), teacher=str(run))) == []
    assert doubts(replace(QUICK, data="mnist", seed=1, start=str(run))) == []
    (text,) = doubts(replace(QUICK, seed=1, start=str(run / "checkpoint.pt")))
    assert "seed 0" in text
    assert len(doubts(replace(QUICK, seed=1, teacher=f"{run}, {run}"))) == 2


@pytest.mark.parametrize(("architecture", "name"), [("lenet5", "classifier.5"), ("resnet20", "head")])
def test_head(architecture: str, name: str) -> None:
    """The head is the last layer with weights."""
    assert head_of(network(architecture=architecture)) == name


def test_starts_from_a_run(run: Path) -> None:
    """A network starts with the weights of a run's best epoch."""
    fresh = network()
    start_from(fresh, str(run))
    expected = checkpoint.load(run).network.state_dict()
    assert all(torch.equal(weights, expected[name]) for name, weights in fresh.state_dict().items())


def test_new_head(run: Path) -> None:
    """For other classes the body is the trained one and the head is new."""
    fresh = network(classes=3)
    head = fresh.state_dict()["classifier.5.weight"].clone()
    start_from(fresh, str(run))
    expected = checkpoint.load(run).network.state_dict()
    assert torch.equal(fresh.state_dict()["classifier.5.weight"], head)
    assert torch.equal(fresh.state_dict()["features.0.weight"], expected["features.0.weight"])


@pytest.mark.parametrize(("classes", "kept"), [(tuple("0123456789"), True), (tuple("abcdefghij"), False)])
def test_as_many_other_classes(run: Path, classes: tuple[str, ...], kept: bool) -> None:  # noqa: FBT001 - a parameter
    """A run of as many classes gives its head only where they are the same ones."""
    fresh = network()
    start_from(fresh, str(run), classes=classes)
    head = checkpoint.load(run).network.state_dict()["classifier.5.weight"]
    assert torch.equal(fresh.state_dict()["classifier.5.weight"], head) == kept


def test_starts_from_a_file(tmp_path: Path) -> None:
    """A network starts from a weight file, of torch or of the safetensors format."""
    torch.manual_seed(1)
    other = architectures.find("lenet5").build(1, 10)
    torch.save(other.state_dict(), tmp_path / "weights.pth")
    write_safetensors(tmp_path / "weights.safetensors", other.state_dict())
    for name in ("weights.pth", "weights.safetensors"):
        fresh = network()
        start_from(fresh, str(tmp_path / name))
        assert torch.equal(fresh.state_dict()["classifier.1.weight"], other.state_dict()["classifier.1.weight"])


def test_another_network(run: Path) -> None:
    """Weights of another network are an error that names what is missing."""
    with pytest.raises(SetupError, match=r"another network's weights: stem\.0\.weight"):
        start_from(network(architecture="resnet20"), str(run))


@pytest.mark.parametrize("content", [None, b"", b"rubbish"])
def test_no_weights(tmp_path: Path, content: bytes | None) -> None:
    """A file that is not there or holds no weights is an error with its name."""
    path = tmp_path / "weights.pth"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SetupError, match=r"weights\.pth"):
        start_from(network(), str(path))


def test_starts_from_a_checkpoint_file(run: Path) -> None:
    """A run's checkpoint file stands for the run."""
    fresh = network()
    start_from(fresh, str(run / "checkpoint.pt"))
    expected = checkpoint.load(run).network.state_dict()
    assert torch.equal(fresh.state_dict()["features.0.weight"], expected["features.0.weight"])


def test_auxiliary_heads_may_be_missing() -> None:
    """Heads that only training uses stay new where the weights lack them."""
    torch.manual_seed(1)
    architecture = architectures.find("googlenet")
    published = {
        name: weights
        for name, weights in architecture.build(3, 10).state_dict().items()
        if not name.startswith(architecture.training_only)
    }
    with NamedTemporaryFile(suffix=".pth") as file:
        torch.save(published, file.name)
        fresh = architecture.build(3, 4)
        start_from(fresh, file.name, training_only=architecture.training_only)
    assert torch.equal(fresh.state_dict()["conv1.conv.weight"], published["conv1.conv.weight"])


def test_frozen_parts_stay(tmp_path: Path, digits: Data) -> None:
    """Frozen parts keep their weights and their statistics to the bit; the others learn."""
    few = replace(digits, train=digits.train.take(np.arange(32)), validation=digits.validation.take(np.arange(10)))
    recipe = replace(QUICK, architecture="resnet20", epochs=1, batch_size=16)
    first = train(replace(recipe, learning_rate=1e-12), few, tmp_path / "first").network.state_dict()
    before = {name: weights.clone() for name, weights in first.items()}
    frozen = replace(recipe, start=str(tmp_path / "first"), freeze="stem, stages.0,stages.1")
    after = train(frozen, few, tmp_path / "second").network.state_dict()
    stayed = {name for name in after if torch.equal(after[name], before[name])}
    still = {name for name in after if name.startswith(("stem.", "stages.0.", "stages.1."))}
    assert still <= stayed
    assert "head.weight" not in stayed
    assert "stages.2.0.first.1.running_mean" not in stayed


def test_frozen_parts_are_not_in_the_optimizer(tmp_path: Path, digits: Data) -> None:
    """What is frozen costs no memory of the optimizer."""
    few = replace(digits, train=digits.train.take(np.arange(32)), validation=digits.validation.take(np.arange(10)))
    train(replace(QUICK, epochs=1, freeze="features"), few, tmp_path)
    assert len(load_state(tmp_path).steps["optimizer"]["state"]) == 6


@pytest.mark.parametrize(
    ("parts", "words"), [("stem", "parts of the network are features"), ("features,classifier", "nothing to train")]
)
def test_wrong_parts(parts: str, words: str) -> None:
    """A part that is not there, or freezing everything, is an error."""
    with pytest.raises(SetupError, match=words):
        freeze(network(), parts)
