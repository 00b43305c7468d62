"""ResNet for CIFAR-10. He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, 2016, section 4.2.

6n + 2 layers on 32x32 pictures: one 3x3 convolution, three stages of n blocks with 16, 32 and 64 maps of 32x32, 16x16
and 8x8, global average pooling and one linear layer. Shortcuts have no parameters (option A): they take every second
pixel and fill the added maps with zeros. Trainable parameters for ten classes, here and in table 6 of the paper:
20 layers 269,722 (0.27M), 32 464,154 (0.46M), 44 658,586 (0.66M), 56 853,018 (0.85M), 110 1,727,962 (1.7M).

The networks do not differ from the paper's; the recipe that trains them does (see export.recipes).
"""

from functools import partial

from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (16, 32, 64)


class ResNetCifar(nn.Module):
    """Float [N, channels, 32, 32] to logits [N, classes]; other sizes that divide by 4 work too."""

    def __init__(self, channels: int = 3, classes: int = 10, *, blocks: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _convolution(channels, WIDTHS[0], stride=1), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU(inplace=True)
        )
        widths = (WIDTHS[0], *WIDTHS)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(Block(wide, wider, stride), *(Block(wider, wider, 1) for _ in range(blocks - 1)))
                for wide, wider, stride in zip(widths, WIDTHS, (1, 2, 2), strict=False)
            )
        )
        self.head = nn.Linear(WIDTHS[-1], classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [N, classes] of pictures [N, channels, 32, 32]."""
        logits: Tensor = self.head(self.stages(self.stem(image)).mean((2, 3)))
        return logits


class Block(nn.Module):
    """Two 3x3 convolutions and what they are added to (figure 2, left); the first has the stride."""

    def __init__(self, maps: int, widened: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            _convolution(maps, widened, stride=stride), nn.BatchNorm2d(widened), nn.ReLU(inplace=True)
        )
        self.second = nn.Sequential(_convolution(widened, widened, stride=1), nn.BatchNorm2d(widened))
        self.stride, self.added = stride, widened - maps

    def forward(self, maps: Tensor) -> Tensor:
        """Return `widened` maps, smaller by the stride."""
        residual = self.second(self.first(maps))
        if self.stride > 1:
            maps = functional.pad(maps[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))
        # In place, as all ReLUs here: a step of ResNet-20 is 1.1 to 1.2 times as fast on a core with AMX.
        return functional.relu(residual.add_(maps), inplace=True)


def _convolution(maps: int, widened: int, *, stride: int) -> nn.Conv2d:
    return nn.Conv2d(maps, widened, kernel_size=3, stride=stride, padding=1, bias=False)


resnet20 = partial(ResNetCifar, blocks=3)
resnet32 = partial(ResNetCifar, blocks=5)
resnet44 = partial(ResNetCifar, blocks=7)
resnet56 = partial(ResNetCifar, blocks=9)
resnet110 = partial(ResNetCifar, blocks=18)
