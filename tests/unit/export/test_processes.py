import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from export.data import Data
from export.processes import Processes, alone
from export.run import load_state
from export.train import train
from service.errors import SetupError
from tests.unit.export.conftest import QUICK

pytestmark = pytest.mark.timeout(300)
"""Three processes import torch, twice: 20 s of a core, more where cores are shared."""

SETTINGS = ["shift=0", "scale=0", "rotate=0", "optimizer=sgd", "learning_rate=0.05", "batch_size=64"]


def started_by_torchrun(run: Path, epochs: int, *options: str) -> subprocess.CompletedProcess[str]:
    """Train the digits in two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    # Without the two dashes torchrun takes --run for one of its own options.
    command += [
        "-m",
        "--",
        "service.cli",
        "train",
        "lenet5-digits",
        "--run",
        str(run),
        "--epochs",
        str(epochs),
        *options,
    ]
    for setting in SETTINGS:
        command += ["--set", setting]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=280)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the run of two processes, and what they printed."""
    folder = tmp_path_factory.mktemp("two")
    done = started_by_torchrun(folder, 2)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_two_processes_learn_what_one_does(two: tuple[Path, str], digits: Data, tmp_path: Path) -> None:
    """Two processes with half of each batch take the steps that one takes with all of it."""
    recipe = replace(QUICK, shift=0, scale=0, rotate=0, optimizer="sgd", learning_rate=0.05, epochs=2, batch_size=64)
    assert len(digits.train) % 2 == 0  # so that the two drop no picture
    train(recipe, digits, tmp_path)
    together, one = (load_state(folder).steps["model"] for folder in (two[0], tmp_path))
    for name, weights in one.items():
        assert torch.allclose(together[name], weights, atol=1e-4), name


def test_only_the_first_tells(two: tuple[Path, str]) -> None:
    """The result is printed once, and the record says how many they were."""
    folder, printed = two
    assert printed.count("of the validation split") == 1
    assert '"processes": 2' in (folder / "run.json").read_text()


def test_every_process_has_its_random_numbers(two: tuple[Path, str]) -> None:
    """Each process changes its pictures in its own way, and the state keeps the random numbers of all."""
    first, second = load_state(two[0]).steps["random"]
    assert not torch.equal(first, second)


def test_resumed_together(two: tuple[Path, str]) -> None:
    """Two processes resume their run."""
    folder, _ = two
    done = started_by_torchrun(folder, 3, "--resume")
    assert done.returncode == 0, done.stderr
    assert len(load_state(folder).epochs) == 3


def test_batches_are_shared_equally() -> None:
    """Every process gets its own part of a batch, all equally long."""
    parts = [Processes(rank, 3, torch.device("cpu")).share(torch.arange(9)).tolist() for rank in range(3)]
    assert parts == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]


def test_unequal_batches() -> None:
    """A batch that cannot be shared equally is an error with both numbers."""
    with pytest.raises(SetupError, match="batch_size is 33, which 2 processes cannot share"):
        Processes(0, 2, torch.device("cpu")).check(33)


def test_alone() -> None:
    """Without torchrun one process does everything and nothing is sent."""
    one = alone()
    assert (one.first, one.count) == (True, 1)
    assert one.told(0.5) == 0.5
    assert one.mean(torch.tensor(2.0)) == 2.0
