"""AlexNet. Krizhevsky, Sutskever, Hinton: ImageNet Classification with Deep Convolutional Neural Networks, NIPS 2012.

`AlexNetLRN` is the paper's network. It differs from the paper in this:
- the two halves of layers 2, 4 and 5, which sat on two GPUs, are two groups of one convolution;
- pictures of 224x224 are padded by 2 on each side: 224 alone gives 54.25 positions, where the paper says 55.

`AlexNet` is the variant of torchvision, after Krizhevsky: One weird trick for parallelizing convolutional neural
networks, 2014. It differs from the paper in this:
- 64, 192, 384, 256, 256 maps, where the paper has 96, 256, 384, 384, 256;
- no groups, no local response normalisation;
- pictures of 224x224 are padded by 2 on each side, as above;
- dropout before the first two linear layers, where the paper has it on what these two give;
- an average pooling to 6x6 before the classifier, which changes nothing at 224x224;
- weights start as torch's do, where the paper draws them from N(0, 0.01) and sets some biases to 1.
Its modules have torchvision's names and shapes. 61,100,840 parameters for 1,000 classes; the paper's network has
60,965,224 ("60 million").
"""

from torch import Tensor, nn


class AlexNet(nn.Module):
    """torchvision's variant: float [N, channels, 224, 224] to logits [N, classes]."""

    def __init__(self, channels: int = 3, classes: int = 1000) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 64, 11, stride=4, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            nn.Dropout(0.5),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, classes),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [N, classes] of pictures [N, channels, height, width]."""
        logits: Tensor = self.classifier(self.avgpool(self.features(image)).flatten(1))
        return logits


class AlexNetLRN(nn.Module):
    """The paper's network: float [N, channels, 224, 224] to logits [N, classes]."""

    def __init__(self, channels: int = 3, classes: int = 1000) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 96, 11, stride=4, padding=2),
            nn.ReLU(inplace=True),
            response_normalisation(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(96, 256, 5, padding=2, groups=2),
            nn.ReLU(inplace=True),
            response_normalisation(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(256, 384, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 384, 3, padding=1, groups=2),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, padding=1, groups=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, classes),
        )
        self._start()

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [N, classes] of pictures [N, channels, 224, 224]."""
        logits: Tensor = self.classifier(self.features(image))
        return logits

    def _start(self) -> None:
        """Draw the first weights as section 5 does: N(0, 0.01); biases 1 in layers 2, 4, 5 and the hidden ones."""
        layers = [layer for layer in self.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
        for number, layer in enumerate(layers, start=1):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.constant_(layer.get_parameter("bias"), 1.0 if number in {2, 4, 5, 6, 7} else 0.0)


def response_normalisation() -> nn.LocalResponseNorm:
    """Return b = a / (2 + 1e-4 * sum of a^2 over five neighbouring maps)^0.75 (section 3.3).

    torch, like ONNX, divides alpha by the number of neighbours; the paper does not.
    """
    return nn.LocalResponseNorm(size=5, alpha=5e-4, beta=0.75, k=2.0)
