from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional

from export import architectures, drawn, presets, published
from export.publish import publish
from export.verify import decoded
from service import image
from service.scores import TOLERANCE
from tests.conftest import Connect, StartServer
from tests.networks import lively

CONVNET = architectures.convnet.EXAMPLE
SMALL = ("lenet5", "lenet5-paper", "mlp", "airbench94", "all-cnn-c", CONVNET, "resnet18", "resnet20")
"""Those that every run of the tests exports and serves; the others take a quarter of an hour."""
IMAGENET_MEAN, IMAGENET_STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def normalised(pixels: npt.NDArray[np.uint8], name: str, preset: str) -> torch.Tensor:
    """Return what torchvision gives a network of pixels uint8 [N, height, width, channels], by its own formulas."""
    inputs = torch.from_numpy(pixels).float() / 255
    if preset == "imagenet":
        inputs = (inputs - IMAGENET_MEAN) / IMAGENET_STD
    elif preset == "cifar10":
        inputs = (inputs - torch.tensor([0.4914, 0.4822, 0.4465])) / torch.tensor([0.2470, 0.2435, 0.2616])
    else:
        inputs = (inputs - 0.1307) / 0.3081
    if name == "googlenet":
        inputs = inputs * (IMAGENET_STD / 0.5) + (IMAGENET_MEAN - 0.5) / 0.5
    return inputs.permute(0, 3, 1, 2)


def check_served(
    name: str, preset: str, folder: Path, start_server: StartServer, connect: Connect, *, classes: int
) -> None:
    """Export an architecture from a weight file, serve it, and compare an answer with the network's own."""
    architecture, channels = architectures.find(name), presets.find(preset).channels
    network = lively(architecture.build(channels, classes), channels, architecture.size)
    torch.save(network.state_dict(), folder / "weights.pth")
    (folder / "labels.txt").write_text("".join(f"class {number}\n" for number in range(classes)))
    loaded = published.load(name, folder / "weights.pth", labels=folder / "labels.txt", preset=preset)
    written = published.write(loaded, folder / "model.onnx")
    assert not [note for note in written.notes if "proves little" in note]
    publish(folder / "model.onnx", folder / "models", "zoo")
    [array] = drawn.pictures(1, channels, seed=9)
    picture = image.encode_png(array)
    client = connect(start_server(folder / "models", max_batch_size=1), timeout=60)
    [categories] = client.classify(picture, top_k=classes).classifications
    answer = np.zeros(classes)
    answer[[entry.index for entry in categories]] = [entry.probability for entry in categories]
    with torch.inference_mode():
        logits = network.eval()(normalised(decoded([picture], loaded.spec), name, preset))
    np.testing.assert_allclose(answer, functional.softmax(logits, dim=1)[0].numpy(), atol=TOLERANCE["fp32"])
    assert client.models()[0].verified


@pytest.mark.parametrize(
    "name",
    [
        name if name in SMALL else pytest.param(name, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])
        for name in (*architectures.ARCHITECTURES, CONVNET)
    ],
)
def test_every_architecture_is_served(name: str, tmp_path: Path, start_server: StartServer, connect: Connect) -> None:
    """Every architecture is exported from a weight file at its own input size, verified, served, and answers right."""
    preset = {28: "mnist", 32: "cifar10", 224: "imagenet"}[architectures.find(name).size]
    check_served(name, preset, tmp_path, start_server, connect, classes=1000 if preset == "imagenet" else 10)
