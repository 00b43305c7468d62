import pytest
import torch
from torch import nn

from export.architectures import ARCHITECTURES, airbench, find
from export.architectures.lenet import LeNet5, LeNet5Paper, squash
from export.architectures.resnet_cifar import Block
from service.errors import SetupError


def parameters(module: nn.Module) -> int:
    """Return how many trainable numbers a module has."""
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize(("channels", "classes"), [(1, 10), (3, 7)])
def test_every_architecture_gives_logits(name: str, channels: int, classes: int) -> None:
    """Every architecture turns pictures of its own size into one logit for each class."""
    architecture = find(name)
    with torch.device("meta"):  # shapes only: the largest one's numbers would take seconds
        network = architecture.build(channels, classes).eval()
        assert network(torch.empty(2, channels, architecture.size, architecture.size)).shape == (2, classes)


def test_airbench_total() -> None:
    """airbench94 learns 1,971,352 numbers for ten classes, the paper's 1.97 million."""
    learned = [parameter for parameter in find("airbench94").build(3, 10).parameters() if parameter.requires_grad]
    assert sum(parameter.numel() for parameter in learned) == 1_971_352


@pytest.mark.parametrize(("channels", "count"), [(1, 4), (3, 12), (4, 16)])
def test_airbench_whitens(channels: int, count: int) -> None:
    """Its first filters, as many as a 2x2 patch has numbers, are at right angles; each has its negative."""
    filters, negatives = airbench.whitening(channels).reshape(2, count, -1)
    assert torch.equal(filters, -negatives)
    products = filters @ filters.T
    assert torch.equal(products, products.diag().diag())


def test_unknown_architecture() -> None:
    """An unknown architecture is an error that names those there are."""
    with pytest.raises(SetupError, match="lenet5, lenet5-paper"):
        find("lenet6")


@pytest.mark.parametrize(
    ("layer", "count"), [("c1", 156), ("s2", 12), ("c3", 1516), ("s4", 32), ("c5", 48120), ("f6", 10164)]
)
def test_paper_layers(layer: str, count: int) -> None:
    """Each layer of the paper's LeNet-5 has as many trainable parameters as the paper says (section II.B)."""
    assert parameters(LeNet5Paper().get_submodule(layer)) == count


def test_paper_total() -> None:
    """Up to F6 the paper's LeNet-5 has 60,000 trainable parameters, as the paper says."""
    network = LeNet5Paper()
    assert parameters(network) - parameters(network.output) == 60000


def test_taught_total() -> None:
    """The taught variant has 61,706 parameters for ten classes and one channel."""
    assert parameters(LeNet5()) == 61706


@pytest.mark.parametrize(
    ("layers", "count"), [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018), (110, 1_727_962)]
)
def test_resnet_cifar_total(layers: int, count: int) -> None:
    """The CIFAR-10 ResNets have as many parameters as table 6 of their paper says, here to the last one."""
    assert parameters(find(f"resnet{layers}").build(3, 10)) == count


@pytest.mark.parametrize("layers", [20, 32, 44, 56, 110])
def test_resnet_cifar_layers(layers: int) -> None:
    """They have 6n + 2 layers with weights: 3x3 convolutions without shortcut projections, and one linear layer."""
    network = find(f"resnet{layers}").build(3, 10)
    kernels = [module.kernel_size for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert len(kernels) + 1 == layers
    assert set(kernels) == {(3, 3)}


def test_resnet_shortcut() -> None:
    """Where maps shrink, the shortcut takes every second pixel and adds maps of zeros (option A)."""
    block = Block(2, 4, stride=2)
    nn.init.zeros_(block.get_parameter("second.1.weight"))
    maps = torch.rand(1, 2, 6, 6)
    shortcut = block(maps)
    assert torch.equal(shortcut[:, :2], maps[:, :, ::2, ::2])
    assert not shortcut[:, 2:].any()


def test_table_joins_c3_to_s2() -> None:
    """Map 0 of C3 sees maps 0, 1, 2 of S2 and no others (table I), and the last map sees all."""
    layer = LeNet5Paper().c3
    maps = torch.zeros(1, 6, 14, 14, requires_grad=True)
    for number, seen in (
        (0, [0, 1, 2]),
        (5, [0, 1, 5]),
        (6, [0, 1, 2, 3]),
        (14, [0, 2, 3, 5]),
        (15, [0, 1, 2, 3, 4, 5]),
    ):
        [gradient] = torch.autograd.grad(layer(maps)[0, number].sum(), maps)
        assert torch.nonzero(gradient.abs().sum(dim=(0, 2, 3))).flatten().tolist() == seen


def test_squash() -> None:
    """The squashing function gives 1 for 1 and -1 for -1, as appendix A wants it."""
    assert torch.allclose(squash(torch.tensor([1.0, -1.0])), torch.tensor([1.0, -1.0]), atol=1e-4)
