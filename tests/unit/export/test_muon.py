"""Muon: orthogonal steps, kept norms, and the networks that it is for."""

import pytest
import torch

from export import architectures
from export.muon import Muon, fits, orthogonal


@pytest.mark.parametrize("shape", [(16, 144), (64, 16), (32, 32)])
def test_steps_are_nearly_orthogonal(shape: tuple[int, int]) -> None:
    """A random matrix's singular values, far apart before, are close to 1 after."""
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    before, after = (torch.linalg.svdvals(each) for each in (matrix, orthogonal(matrix)))
    assert after.max() / after.median() < before.max() / before.median()
    assert after.max() < 1.3


def test_filters_keep_their_norm() -> None:
    """Whatever a convolution's weights grow to, the next step starts from filters of norm 1 on average."""
    weights = torch.nn.Parameter(100 * torch.randn(8, 3, 3, 3, generator=torch.Generator().manual_seed(1)))
    optimizer = Muon([{"params": [weights], "weight_decay": 0.1}], lr=0.0, momentum=0.9)
    weights.grad = torch.ones_like(weights)
    optimizer.step()
    assert float(weights.detach().norm()) == pytest.approx(8**0.5, rel=1e-5)


def test_others_learn_by_sgd() -> None:
    """A bias takes Nesterov's first step at twice the rate: gradient and momentum ahead."""
    bias = torch.nn.Parameter(torch.zeros(2))
    optimizer = Muon([{"params": [bias], "weight_decay": 0.0}], lr=0.1, momentum=0.5)
    bias.grad = torch.tensor([1.0, -2.0])
    optimizer.step()
    assert bias.tolist() == pytest.approx([-0.3, 0.6])


@pytest.mark.parametrize(
    ("name", "fine"), [("resnet20", True), ("vgg11_bn", True), ("lenet5", False), ("vgg11", False)]
)
def test_networks_it_is_for(name: str, fine: bool) -> None:  # noqa: FBT001 - a parameter
    """A network is for Muon if a norm follows each convolution."""
    channels = 1 if name == "lenet5" else 3
    with torch.device("meta"):
        assert fits(architectures.find(name).build(channels, 10)) == fine
