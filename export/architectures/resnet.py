"""ResNet. He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, 2015 (CVPR 2016), table 1.

It differs from the paper in this:
- the bottleneck block halves height and width in its 3x3 convolution, where the paper does it in the first 1x1
  ("v1.5", as torchvision; about half a percent more accurate, 5 % more work);
- shortcuts that change their shape are projections (the paper's option B) in all depths.

With `small` the stem is the one for pictures of 32x32, as section 4.2 has it for CIFAR-10: one 3x3 convolution, stride
1, no max pooling; stages and widths stay those of table 1. Section 4.2's own networks are in resnet_cifar.py.

Modules have torchvision's names and shapes. resnet18 has 11,689,512 parameters for 1,000 classes, resnet34 21,797,672,
resnet50 25,557,032, resnet101 44,549,160, resnet152 60,192,808.
"""

from torch import Tensor, nn

WIDTHS = (64, 128, 256, 512)


class ResNet(nn.Module):
    """Residual blocks in four stages: float [N, channels, 224, 224] to logits [N, classes].

    Args:
        block: what the stages are made of.
        blocks: how many of them each of the four stages has.
        channels: of the picture.
        classes: of the output.
        small: the stem for pictures of 32x32.
    """

    def __init__(
        self,
        block: type["BasicBlock"] | type["Bottleneck"],
        blocks: tuple[int, int, int, int],
        channels: int = 3,
        classes: int = 1000,
        *,
        small: bool = False,
    ) -> None:
        super().__init__()
        kernel, stride = (3, 1) if small else (7, 2)
        self.conv1 = nn.Conv2d(channels, 64, kernel, stride, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, stride=2, padding=1)
        entering = 64
        for number, (width, count) in enumerate(zip(WIDTHS, blocks, strict=True), start=1):
            leaving = width * block.expansion
            first = block(entering, width, stride=1 if number == 1 else 2)
            others = [block(leaving, width, stride=1) for _ in range(count - 1)]
            self.add_module(f"layer{number}", nn.Sequential(first, *others))
            entering = leaving
        self.fc = nn.Linear(entering, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [N, classes] of pictures [N, channels, height, width]."""
        maps = self.maxpool(self.relu(self.bn1(self.conv1(image))))
        for number in range(1, len(WIDTHS) + 1):
            maps = self.get_submodule(f"layer{number}")(maps)
        logits: Tensor = self.fc(maps.mean((2, 3)))
        return logits


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (figure 5, left)."""

    expansion = 1

    def __init__(self, entering: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(entering, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(entering, width, stride)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps [N, width, height / stride, width / stride]."""
        residual = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(maps)))))
        sum_: Tensor = self.relu(residual + self.downsample(maps))
        return sum_


class Bottleneck(nn.Module):
    """A 1x1, a 3x3 and a 1x1 convolution beside a shortcut (figure 5, right); the stride is in the 3x3."""

    expansion = 4

    def __init__(self, entering: int, width: int, stride: int) -> None:
        super().__init__()
        leaving = width * self.expansion
        self.conv1 = nn.Conv2d(entering, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, leaving, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(leaving)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(entering, leaving, stride)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps [N, 4 * width, height / stride, width / stride]."""
        residual = self.relu(self.bn1(self.conv1(maps)))
        residual = self.relu(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        sum_: Tensor = self.relu(residual + self.downsample(maps))
        return sum_


def _shortcut(entering: int, leaving: int, stride: int) -> nn.Sequential:
    """Return the identity, without modules, or where the shape changes a projection."""
    if stride == 1 and entering == leaving:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(entering, leaving, 1, stride, bias=False), nn.BatchNorm2d(leaving))
