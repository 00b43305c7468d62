import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from export import architectures, checkpoint, teacher
from export.checkpoint import Checkpoint, Classifier
from export.data import Data
from export.processes import Processes
from export.step import Steps
from export.teacher import Teacher
from export.train import Told, train
from service.errors import SetupError
from tests.unit.export.conftest import QUICK

STILL = replace(QUICK, shift=0, scale=0, rotate=0, average=0.0)


def classifier(seed: int, mean: float = 0.0, std: float = 1.0) -> Classifier:
    """Return a LeNet-5 of its own weights."""
    torch.manual_seed(seed)
    return Classifier(architectures.find("lenet5").build(1, 10), (mean,), (std,)).eval()


def batch(count: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random pictures and labels."""
    random = torch.Generator().manual_seed(1)
    return (
        torch.randint(0, 256, (count, 28, 28, 1), dtype=torch.uint8, generator=random),
        torch.randint(0, 10, (count,), generator=random),
    )


def together(*networks: Classifier, student: Classifier, temperature: float = 2.0) -> Teacher:
    """Return a teacher in fp32."""
    return Teacher(networks, student, temperature=temperature, computed_in=torch.float32)


class Stopped(Exception):
    """Ends a run after its first epoch."""


def few_of(digits: Data) -> Data:
    """Return enough of the digits for a run of a second."""
    return replace(digits, train=digits.train.take(np.arange(96)), validation=digits.validation.take(np.arange(32)))


def test_answers_are_the_mean() -> None:
    """Several teachers answer with the mean of their probabilities, each with its logits divided by the temperature."""
    student, first, second = classifier(0), classifier(1), classifier(2)
    images, _ = batch()
    answers = together(first, second, student=student, temperature=3).answers(student.normalise(images))
    expected = [functional.softmax(network.logits(images) / 3, dim=1) for network in (first, second)]
    assert torch.allclose(answers, (expected[0] + expected[1]) / 2, atol=1e-6)


def test_own_normalisation() -> None:
    """A teacher sees the pixels under its own normalisation, whatever the student's is."""
    student, other = classifier(0, mean=0.3, std=0.2), classifier(1, mean=0.6, std=0.7)
    images, _ = batch()
    answers = together(other, student=student, temperature=1).answers(student.normalise(images))
    assert torch.allclose(answers, other(images), atol=1e-5)


def test_loss_is_of_both() -> None:
    """The loss is the divergence from the teacher times the temperature's square, and the labels' for the rest."""
    student, other = classifier(0), classifier(1)
    images, labels = batch()
    logits = student.logits(images).detach()
    softened, wanted = torch.log_softmax(logits / 4, 1), torch.softmax(other.logits(images) / 4, 1)
    divergence = (wanted * (wanted.log() - softened)).sum(1).mean()
    expected = (0.7 * 16 * divergence + 0.3 * functional.cross_entropy(logits, labels)).detach()
    recipe = replace(STILL, teacher_share=0.7, temperature=4.0)
    alone = Processes(0, 1, torch.device("cpu"))
    steps = Steps(recipe, student, classes=10, total=1, processes=alone, teachers=[other])
    assert float(steps.step(images, labels)) == pytest.approx(float(expected), rel=1e-4)


def test_a_student_comes_to_answer_as_its_teacher() -> None:
    """Steps by the teacher alone bring the student's answers closer to the teacher's."""
    student, other = classifier(0), classifier(1)
    images, labels = batch()
    recipe = replace(STILL, teacher_share=1.0, learning_rate=0.01, warmup=0.0)
    alone = Processes(0, 1, torch.device("cpu"))
    steps = Steps(recipe, student, classes=10, total=40, processes=alone, teachers=[other])
    losses = [float(steps.step(images, labels)) for _ in range(40)]
    assert losses[-1] < 0.1 * losses[0]


def test_teachers_stay() -> None:
    """Learning from a network changes no weight and no statistic of its norms."""
    student, other = classifier(0), Classifier(architectures.find("resnet20").build(1, 10), (0.0,), (1.0,))
    before = copy.deepcopy(other.state_dict())
    alone = Processes(0, 1, torch.device("cpu"))
    steps = Steps(STILL, student, classes=10, total=2, processes=alone, teachers=[other])
    steps.train()
    steps.step(*batch())
    assert all(torch.equal(weights, before[name]) for name, weights in other.state_dict().items())


def test_a_run_learns_from_a_run(run: Path, digits: Data, tmp_path: Path) -> None:
    """A run with a teacher ends with other weights than the same without, and its recipe keeps the teacher's name."""
    recipe = replace(QUICK, epochs=1)
    plain = train(recipe, few_of(digits), tmp_path / "plain")
    taught = train(replace(recipe, teacher=f"{run}, {run}"), few_of(digits), tmp_path / "taught")
    name = "features.0.weight"
    assert not torch.equal(plain.network.state_dict()[name], taught.network.state_dict()[name])
    assert checkpoint.load(tmp_path / "taught").recipe.teacher == f"{run}, {run}"


def test_resumed_alike(run: Path, digits: Data, tmp_path: Path) -> None:
    """A run with a teacher that was stopped and resumed ends with the weights of one that was not."""
    recipe = replace(QUICK, epochs=2, teacher=str(run))
    whole = train(recipe, few_of(digits), tmp_path / "whole")

    def stop(_: object) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        train(recipe, few_of(digits), tmp_path / "stopped", Told(stop))
    resumed = train(recipe, few_of(digits), tmp_path / "stopped", resume=True)
    expected = whole.network.state_dict()
    assert all(torch.equal(weights, expected[name]) for name, weights in resumed.network.state_dict().items())


def test_a_run_is_not_its_own_teacher(run: Path, digits: Data) -> None:
    """A run whose folder is its teacher's is refused before anything is overwritten."""
    before = (run / "checkpoint.pt").read_bytes()
    with pytest.raises(SetupError, match="the folder of this run itself"):
        train(replace(QUICK, epochs=1, teacher=str(run)), few_of(digits), run)
    assert (run / "checkpoint.pt").read_bytes() == before


def test_another_teacher_under_the_same_name(digits: Data, tmp_path: Path) -> None:
    """A run is not resumed when its teacher was trained anew in between."""
    recipe = replace(QUICK, epochs=1, teacher=str(tmp_path / "teacher"))
    for seed in (0, 1):
        train(replace(QUICK, epochs=1, seed=seed), few_of(digits), tmp_path / "teacher")
        if not seed:
            train(recipe, few_of(digits), tmp_path / "run")
    with pytest.raises(SetupError, match="teachers was"):
        train(replace(recipe, epochs=2), few_of(digits), tmp_path / "run", resume=True)


def test_no_such_teacher(trained: Checkpoint) -> None:
    """A run that is not there is an error with its name and with what to do."""
    with pytest.raises(SetupError, match=r"runs/none.*not there; train it first"):
        teacher.load("runs/none", trained.classes, trained.spec)


def test_other_classes(run: Path, trained: Checkpoint) -> None:
    """A teacher of other classes, or of the same in another order, is refused."""
    with pytest.raises(SetupError, match=r"10 classes \(0, 1, 2, 3, \.\.\.\), and .* 10 classes \(9, 8"):
        teacher.load(str(run), trained.classes[::-1], trained.spec)


def test_other_input(run: Path, trained: Checkpoint) -> None:
    """A teacher of another input size is refused, with both."""
    with pytest.raises(SetupError, match=r"28x28x1.*32x28x1"):
        teacher.load(str(run), trained.classes, trained.spec.model_copy(update={"height": 32}))


def test_none(trained: Checkpoint) -> None:
    """Without a name there is no teacher."""
    assert teacher.load("", trained.classes, trained.spec) == []
