from dataclasses import replace

import pytest
import torch
from torch import nn

from export import architectures
from export.checkpoint import Classifier
from export.processes import Processes
from export.recipes import Recipe, Schedule
from export.step import Steps, precision, share_of_rate
from tests.unit.export.conftest import QUICK

ALONE = Processes(0, 1, torch.device("cpu"))
SGD = replace(QUICK, optimizer="sgd", momentum=0.0, weight_decay=0.0, learning_rate=1.0, warmup=0.0, average=0.0)
STILL = replace(SGD, shift=0, scale=0, rotate=0)


class Apart(Processes):
    """One of several processes that shares nothing with the others."""

    def joined(self, network: nn.Module) -> nn.Module:
        """Return the network as it is."""
        return network


def started(recipe: Recipe, total: int = 10, processes: Processes = ALONE) -> Steps:
    """Return the steps of a LeNet-5."""
    torch.manual_seed(0)
    network = architectures.find("lenet5").build(1, 10)
    return Steps(recipe, Classifier(network, (0.0,), (1.0,)), classes=10, total=total, processes=processes)


def all_of(steps: Steps) -> torch.Tensor:
    """Return all weights in one row."""
    return torch.cat([parameter.detach().flatten() for parameter in steps.model.parameters()])


def batch(count: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random pictures and labels."""
    random = torch.Generator().manual_seed(1)
    return (
        torch.randint(0, 256, (count, 28, 28, 1), dtype=torch.uint8, generator=random),
        torch.randint(0, 10, (count,), generator=random),
    )


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_rate(schedule: Schedule) -> None:
    """The rate rises from a twenty-fifth to its highest over the warm-up and falls to nothing at the end."""
    recipe = replace(QUICK, schedule=schedule, warmup=0.2)
    shares = [share_of_rate(recipe, progress / 100) for progress in range(101)]
    assert shares[0] == pytest.approx(1 / 25)
    assert shares[20] == pytest.approx(1)
    assert shares[100] == pytest.approx(0)
    assert shares[:21] == sorted(shares[:21])
    assert shares[20:] == sorted(shares[20:], reverse=True)


def test_no_warmup() -> None:
    """Without a warm-up the rate starts at its highest; with nothing else it never falls."""
    assert share_of_rate(replace(QUICK, warmup=0.0), 0.0) == 1.0
    assert share_of_rate(replace(QUICK, warmup=1.0), 0.999) == pytest.approx(1, abs=0.01)


def test_a_step_follows_the_gradient() -> None:
    """A step of plain gradient descent subtracts the rate times the gradient of the mean loss."""
    steps = started(replace(STILL, learning_rate=0.5))
    bias = steps.model.get_parameter("network.classifier.5.bias")
    before = bias.detach().clone()
    images, labels = batch()
    expected = torch.softmax(steps.model.logits(images), 1).mean(0) - nn.functional.one_hot(labels, 10).float().mean(0)
    steps.step(images, labels)
    assert torch.allclose(bias, before - 0.5 * expected, atol=1e-6)


def test_norms_and_biases_do_not_decay() -> None:
    """Weight decay is of matrices and kernels; vectors have none."""
    torch.manual_seed(0)
    network = architectures.find("resnet20").build(3, 10)
    steps = Steps(
        replace(SGD, weight_decay=0.1),
        Classifier(network, (0.0,) * 3, (1.0,) * 3),
        classes=10,
        total=1,
        processes=ALONE,
    )
    for group in steps.optimizer.param_groups:
        assert {parameter.ndim > 1 for parameter in group["params"]} == {group["weight_decay"] == 0.1}
    counted = sum(len(group["params"]) for group in steps.optimizer.param_groups)
    assert counted == len(list(network.parameters()))


def test_biases_of_any_shape_do_not_decay() -> None:
    """The paper's LeNet-5 has coefficients and biases of shape [1, maps, 1, 1], which have no weight decay either."""
    model = Classifier(architectures.find("lenet5-paper").build(1, 10), (0.0,), (1.0,))
    steps = Steps(replace(SGD, weight_decay=0.1), model, classes=10, total=1, processes=ALONE)
    decaying = {id(each) for group in steps.optimizer.param_groups if group["weight_decay"] for each in group["params"]}
    names = {name for name, parameter in steps.model.named_parameters() if id(parameter) in decaying}
    assert "network.c1.weight" in names
    assert not {name for name in names if name.startswith(("network.s2", "network.s4"))}


def test_body_learns_slower() -> None:
    """With body_rate, all but the last layer gets that share of the rate."""
    steps = started(replace(STILL, body_rate=0.1))
    steps.step(*batch())
    rates = {id(parameter): group["lr"] for group in steps.optimizer.param_groups for parameter in group["params"]}
    named = dict(steps.model.named_parameters())
    assert rates[id(named["network.classifier.5.weight"])] == pytest.approx(1.0)
    assert rates[id(named["network.classifier.3.weight"])] == pytest.approx(0.1)


def test_clip() -> None:
    """With a bound on the gradient a step is no longer than the rate times the bound."""
    steps = started(replace(STILL, clip=0.01))
    before = all_of(steps)
    steps.step(*batch())
    assert float((all_of(steps) - before).norm()) == pytest.approx(0.01, rel=1e-3)


def test_average_of_weights() -> None:
    """The average follows the weights: after the first step by 9 parts of 11, later by one less the decay."""
    steps = started(replace(STILL, average=0.2))
    name = "network.classifier.5.bias"
    kept = steps.average.get_parameter(name).clone()
    for share in (9 / 11, 0.8, 0.8):
        steps.step(*batch())
        kept = kept.lerp(steps.model.get_parameter(name).detach(), share)
        assert torch.allclose(steps.average.get_parameter(name), kept, atol=1e-6)


def test_every_process_goes_on_with_its_random_numbers() -> None:
    """The second of two processes is restored to the random numbers of the second."""
    state = started(STILL).state()
    second = torch.Generator().manual_seed(7).get_state()
    steps = started(STILL, processes=Apart(1, 2, torch.device("cpu")))
    steps.restore({**state, "random": [*state["random"], second]})
    assert torch.equal(torch.get_rng_state(), second)


def test_mean_squared_error() -> None:
    """The loss `mse` is the squared error of the probabilities, summed over the classes (Brier's score)."""
    steps = started(replace(STILL, loss="mse"))
    images, labels = batch()
    probabilities = torch.softmax(steps.model.logits(images), 1).detach()
    expected = (probabilities - nn.functional.one_hot(labels, 10)).square().sum(1).mean()
    assert float(steps.step(images, labels)) == pytest.approx(float(expected), rel=1e-5)


def test_label_smoothing_is_alike() -> None:
    """Smoothing a hard label and smoothing it as a share of classes give the same loss."""
    images, labels = batch()
    plain = float(started(replace(STILL, label_smoothing=0.1)).step(images, labels))
    expected = nn.functional.cross_entropy(
        started(STILL).model.logits(images), nn.functional.one_hot(labels, 10) * 0.9 + 0.01
    )
    assert plain == pytest.approx(expected.item(), rel=1e-5)


def test_auxiliary_heads_count_for_a_part() -> None:
    """The losses of auxiliary heads are added with a weight of 0.3 each."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(784, 10)

        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
            logits = self.head(image.flatten(1))
            return logits, (logits, logits)

    images, labels = batch()
    steps = Steps(STILL, Classifier(Two(), (0.0,), (1.0,)), classes=10, total=1, processes=ALONE)
    alone = nn.functional.cross_entropy(steps.model.network(steps.model.normalise(images))[0], labels)
    assert float(steps.step(images, labels)) == pytest.approx(1.6 * alone.item(), rel=1e-5)


@pytest.mark.parametrize("wanted", ["fp32", "bf16", "fp16"])
def test_precision_as_asked(wanted: str) -> None:
    """A precision that is named is taken."""
    assert precision(wanted, torch.device("cpu")) == wanted


@pytest.mark.parametrize(
    ("flags", "expected"),
    [({"avx512f", "amx_bf16"}, "bf16"), ({"avx512f", "avx512_bf16"}, "bf16"), ({"avx2", "avx512f"}, "fp32")],
)
def test_precision_of_this_cpu(flags: set[str], expected: str) -> None:
    """On a CPU `auto` is bf16 where the processor multiplies it in hardware, else fp32."""
    assert precision("auto", torch.device("cpu"), flags=flags) == expected
