"""VGG. Simonyan, Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition, 2014 (ICLR 2015).

vgg11, 13, 16 and 19 are the configurations A, B, D and E of table 1. They differ from the paper in this:
- weights start as He et al. (2015) have it, where the paper starts the deep ones from a trained A;
- the fully connected layers stay such, where the paper turns them into convolutions to test on whole pictures.

With `normalise` (vgg11_bn and so on) there is batch normalisation after every convolution, younger than the paper.

With `small` the network is for pictures of 32x32: five poolings leave one position, so that the classifier sees 512
values instead of 25,088, and its hidden layers have 512 units instead of 4,096.

Modules have torchvision's names and shapes. For 1,000 classes vgg11 has 132,863,336 parameters, vgg13 133,047,848,
vgg16 138,357,544, vgg19 143,667,240; with batch normalisation 5,504, 5,888, 8,448 and 11,008 more.
"""

from torch import Tensor, nn

# Table 1: the widths of the convolutions between the poolings.
CONFIGURATIONS = {
    11: ((64,), (128,), (256,) * 2, (512,) * 2, (512,) * 2),
    13: ((64,) * 2, (128,) * 2, (256,) * 2, (512,) * 2, (512,) * 2),
    16: ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3),
    19: ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4),
}


class VGG(nn.Module):
    """3x3 convolutions in five stages: float [N, channels, 224, 224] to logits [N, classes].

    Args:
        depth: 11, 13, 16 or 19 layers with weights.
        channels: of the picture.
        classes: of the output.
        normalise: with batch normalisation.
        small: for pictures of 32x32.
    """

    def __init__(
        self, depth: int, channels: int = 3, classes: int = 1000, *, normalise: bool = False, small: bool = False
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for widths in CONFIGURATIONS[depth]:
            for width in widths:
                layers.append(nn.Conv2d(channels, width, 3, padding=1))
                layers += [nn.BatchNorm2d(width)] if normalise else []
                layers.append(nn.ReLU(inplace=True))
                channels = width
            layers.append(nn.MaxPool2d(2))
        side, hidden = (1, 512) if small else (7, 4096)
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(side)
        self.classifier = nn.Sequential(
            nn.Linear(512 * side * side, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(hidden, classes),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.get_parameter("bias"))
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [N, classes] of pictures [N, channels, height, width]."""
        logits: Tensor = self.classifier(self.avgpool(self.features(image)).flatten(1))
        return logits
