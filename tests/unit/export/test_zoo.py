from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from export.architectures import ARCHITECTURES, alexnet, find
from export.onnx_export import export_graph
from export.published import Published
from export.verify import compare
from service.manifest import Preprocessing


def built(name: str, channels: int = 3, classes: int = 1000) -> nn.Module:
    """Return a network without memory for its weights, which is made at once whatever its size."""
    with torch.device("meta"):
        return find(name).build(channels, classes)


def parameters(module: nn.Module) -> int:
    """Return how many trainable numbers a module has."""
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("alexnet", 61_100_840),
        ("vgg11", 132_863_336),
        ("vgg11_bn", 132_868_840),
        ("vgg13", 133_047_848),
        ("vgg13_bn", 133_053_736),
        ("vgg16", 138_357_544),
        ("vgg16_bn", 138_365_992),
        ("vgg19", 143_667_240),
        ("vgg19_bn", 143_678_248),
        ("googlenet", 13_004_888),
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
    ],
)
def test_parameters_of_torchvision(name: str, count: int) -> None:
    """Each network that torchvision has, has as many parameters as torchvision's for 1,000 classes."""
    assert parameters(built(name)) == count


def test_googlenet_without_heads() -> None:
    """Without the auxiliary heads GoogLeNet has the 6,624,904 parameters that torchvision publishes."""
    network = built("googlenet")
    heads = sum(parameters(network.get_submodule(name)) for name in find("googlenet").training_only)
    assert parameters(network) - heads == 6_624_904


@pytest.mark.parametrize(
    ("layer", "weights"),
    [(0, 34_848), (4, 307_200), (8, 884_736), (10, 663_552), (12, 442_368)],
)
def test_alexnet_paper_layers(layer: int, weights: int) -> None:
    """Each convolution of the paper's AlexNet has the weights that section 3.5 gives: 96x11x11x3, 256x5x5x48, ..."""
    network = built("alexnet-lrn")
    assert network.get_parameter(f"features.{layer}.weight").numel() == weights


def test_alexnet_paper_total() -> None:
    """The paper's AlexNet has the 60 million parameters of its abstract, exactly 60,965,224."""
    assert parameters(built("alexnet-lrn")) == 60_965_224


def test_all_cnn_total() -> None:
    """All-CNN-C has about 1.4 million parameters, as table 3 of the paper says, exactly 1,369,738."""
    assert parameters(built("all-cnn-c", classes=10)) == 1_369_738


def test_mlp_total() -> None:
    """The 28x28-300-100-10 perceptron has 266,610 parameters."""
    assert parameters(built("mlp", channels=1, classes=10)) == 266_610


@pytest.mark.parametrize(("name", "count"), [("resnet18-small", 11_173_962), ("vgg16_bn-small", 15_253_578)])
def test_small_total(name: str, count: int) -> None:
    """With the stem for small pictures a network has the parameters that its file states the differences of."""
    assert parameters(built(name, classes=10)) == count


@pytest.mark.parametrize(
    ("name", "keys"), [("resnet18", 122), ("resnet50", 320), ("alexnet", 16), ("vgg11", 22), ("googlenet", 364)]
)
def test_number_of_keys(name: str, keys: int) -> None:
    """A network's state_dict has as many keys as torchvision's published file."""
    assert len(built(name).state_dict()) == keys


@pytest.mark.parametrize(
    ("name", "key", "shape"),
    [
        ("alexnet", "features.10.weight", (256, 256, 3, 3)),
        ("alexnet", "classifier.1.weight", (4096, 9216)),
        ("alexnet", "classifier.6.bias", (1000,)),
        ("vgg11", "features.18.weight", (512, 512, 3, 3)),
        ("vgg16_bn", "features.41.running_var", (512,)),
        ("vgg19", "features.34.bias", (512,)),
        ("vgg19", "classifier.0.weight", (4096, 25088)),
        ("vgg19", "classifier.3.weight", (4096, 4096)),
        ("resnet18", "layer2.0.downsample.1.running_mean", (128,)),
        ("resnet34", "layer3.5.conv2.weight", (256, 256, 3, 3)),
        ("resnet50", "layer1.0.downsample.0.weight", (256, 64, 1, 1)),
        ("resnet50", "layer4.2.conv3.weight", (2048, 512, 1, 1)),
        ("resnet152", "layer3.35.bn2.num_batches_tracked", ()),
        ("resnet152", "fc.weight", (1000, 2048)),
        ("googlenet", "conv3.conv.weight", (192, 64, 3, 3)),
        ("googlenet", "inception3a.branch2.0.conv.weight", (96, 192, 1, 1)),
        ("googlenet", "inception4e.branch3.1.conv.weight", (128, 32, 3, 3)),
        ("googlenet", "inception5b.branch4.1.bn.weight", (128,)),
        ("googlenet", "aux1.conv.conv.weight", (128, 512, 1, 1)),
        ("googlenet", "aux2.fc1.weight", (1024, 2048)),
        ("googlenet", "fc.weight", (1000, 1024)),
    ],
)
def test_torchvision_keys(name: str, key: str, shape: tuple[int, ...]) -> None:
    """Module names and shapes are torchvision's."""
    assert tuple(built(name).state_dict()[key].shape) == shape


def test_resnet_is_v15() -> None:
    """The stride of a bottleneck block is in its 3x3 convolution, as torchvision has it."""
    block = built("resnet50").get_submodule("layer2.0")
    strides = [convolution.stride for convolution in block.children() if isinstance(convolution, nn.Conv2d)]
    assert strides == [(1, 1), (2, 2), (1, 1)]


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name.endswith("-small")])
def test_small_differs_in_the_stem_or_the_classifier(name: str) -> None:
    """A network for small pictures has the same convolutions after the first as the one that it is named after."""
    small, full = (
        [tuple(module.weight.shape) for module in built(each).modules() if isinstance(module, nn.Conv2d)]
        for each in (name, name.removesuffix("-small"))
    )
    assert small[1:] == full[1:]


def test_googlenet_training() -> None:
    """In training GoogLeNet gives its logits and those of its two auxiliary heads, in evaluation its logits alone."""
    network, pictures = built("googlenet"), torch.empty(2, 3, 224, 224, device="meta")
    logits, auxiliary = network.train()(pictures)
    assert [tuple(each.shape) for each in (logits, *auxiliary)] == [(2, 1000)] * 3
    assert network.eval()(pictures).shape == (2, 1000)


def test_response_normalisation() -> None:
    """The normalisation is b_i = a_i / (2 + 1e-4 * sum of a_j^2 over j from i-2 to i+2)^0.75, as section 3.3 has it."""
    maps = torch.rand(1, 9, 2, 2) * 200
    squares = torch.stack([(maps[:, max(0, i - 2) : i + 3] ** 2).sum(dim=1) for i in range(9)], dim=1)
    assert torch.allclose(alexnet.response_normalisation()(maps), maps / (2 + 1e-4 * squares) ** 0.75)


def test_normalisation_and_ceiling_survive_export(tmp_path: Path) -> None:
    """Local response normalisation, and pooling whose last window is cut, are the same in the exported file."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2),
        alexnet.response_normalisation(),
        nn.MaxPool2d(3, stride=2, ceil_mode=True),
        nn.Flatten(),
        nn.Linear(16 * 8 * 8, 10),
    )
    spec = Preprocessing(height=34, width=34, channels=3)
    made = Published("tiny", tuple("0123456789"), spec, (0.5,) * 3, (0.005,) * 3, network, origin="random")
    export_graph(made, tmp_path / "model.onnx")
    images = np.random.default_rng(0).integers(0, 256, (4, 34, 34, 3), dtype=np.uint8)
    assert np.ptp(made.classifier().predict(images), axis=0).max() > 0.1
    assert compare(made.classifier(), tmp_path / "model.onnx", images, batch_sizes=(1, 2)).logits < 1e-4
