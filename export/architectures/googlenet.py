"""GoogLeNet. Szegedy et al.: Going Deeper with Convolutions, 2014 (CVPR 2015), table 1.

It differs from the paper in this, as torchvision's does:
- batch normalisation (epsilon 0.001) after every convolution, which then has no bias, in place of the two local
  response normalisations;
- the third branch of an inception module has a 3x3 convolution where the paper has a 5x5: a mistake in the port of the
  published weights, which therefore need it;
- the last pooling before stage 5 is 2x2 where the paper has 3x3;
- dropout 0.2 before the classifier, where the paper has 0.4;
- the pooling of an auxiliary head is an average to 4x4, whatever the size of the maps; at 224x224 the paper's 5x5 of
  stride 3 gives 4x4 as well;
- weights start as torch's do.

In training the network also gives the logits of its two auxiliary heads (section 5), whose losses count 0.3 each. In
evaluation the heads are not run, and a network without them is served.

torchvision's published weights were trained on pixels from -1 to 1: its `transform_input` turns pictures that were
normalised by ImageNet's mean and deviation into those. Two affine maps are one: here the exported graph takes the
`mean` and `std` of the architecture (0.5 and 0.5, see export.architectures) in place of the preset's.

Modules have torchvision's names and shapes. 13,004,888 parameters for 1,000 classes with the auxiliary heads, 6,624,904
without.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class TrainingLogits(NamedTuple):
    """What the network gives in training: logits [N, classes] of the classifier and of the auxiliary heads."""

    logits: Tensor
    auxiliary: tuple[Tensor, ...]


class GoogLeNet(nn.Module):
    """Nine inception modules: float [N, channels, 224, 224] to logits [N, classes]."""

    def __init__(self, channels: int = 3, classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = Convolution(channels, 64, 7, stride=2)
        self.maxpool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.conv2 = Convolution(64, 64, 1)
        self.conv3 = Convolution(64, 192, 3)
        self.maxpool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception3a = Inception(192, 64, (96, 128), (16, 32), 32)
        self.inception3b = Inception(256, 128, (128, 192), (32, 96), 64)
        self.maxpool3 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception4a = Inception(480, 192, (96, 208), (16, 48), 64)
        self.inception4b = Inception(512, 160, (112, 224), (24, 64), 64)
        self.inception4c = Inception(512, 128, (128, 256), (24, 64), 64)
        self.inception4d = Inception(512, 112, (144, 288), (32, 64), 64)
        self.inception4e = Inception(528, 256, (160, 320), (32, 128), 128)
        self.maxpool4 = nn.MaxPool2d(2, stride=2, ceil_mode=True)
        self.inception5a = Inception(832, 256, (160, 320), (32, 128), 128)
        self.inception5b = Inception(832, 384, (192, 384), (48, 128), 128)
        self.aux1 = AuxiliaryHead(512, classes)
        self.aux2 = AuxiliaryHead(528, classes)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(1024, classes)

    def forward(self, image: Tensor) -> Tensor | TrainingLogits:
        """Return logits [N, classes] of pictures [N, channels, height, width]; in training those of the heads too."""
        maps = self.maxpool1(self.conv1(image))
        maps = self.maxpool2(self.conv3(self.conv2(maps)))
        maps = self.maxpool3(self.inception3b(self.inception3a(maps)))
        first = self.inception4a(maps)
        second = self.inception4d(self.inception4c(self.inception4b(first)))
        maps = self.maxpool4(self.inception4e(second))
        maps = self.inception5b(self.inception5a(maps))
        logits: Tensor = self.fc(self.dropout(maps.mean((2, 3))))
        if self.training:
            return TrainingLogits(logits, (self.aux1(first), self.aux2(second)))
        return logits


class Convolution(nn.Module):
    """A convolution that keeps height and width but for its stride, batch normalisation, ReLU."""

    def __init__(self, entering: int, leaving: int, kernel: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(entering, leaving, kernel, stride, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(leaving, eps=0.001)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps [N, leaving, height / stride, width / stride]."""
        return functional.relu(self.bn(self.conv(maps)), inplace=True)


class Inception(nn.Module):
    """Four branches side by side (figure 2b).

    Args:
        entering: maps that enter.
        ones: maps of the 1x1 branch.
        threes: maps of the 3x3 branch, after its reduction and after its convolution.
        fives: likewise of the paper's 5x5 branch.
        pooled: maps of the pooling branch.
    """

    def __init__(self, entering: int, ones: int, threes: tuple[int, int], fives: tuple[int, int], pooled: int) -> None:
        super().__init__()
        self.branch1 = Convolution(entering, ones, 1)
        self.branch2 = nn.Sequential(Convolution(entering, threes[0], 1), Convolution(*threes, 3))
        self.branch3 = nn.Sequential(Convolution(entering, fives[0], 1), Convolution(*fives, 3))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), Convolution(entering, pooled, 1))

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps [N, ones + threes[1] + fives[1] + pooled, height, width]."""
        return torch.cat([self.branch1(maps), self.branch2(maps), self.branch3(maps), self.branch4(maps)], dim=1)


class AuxiliaryHead(nn.Module):
    """A classifier on maps from the middle of the network, for training (section 5)."""

    def __init__(self, entering: int, classes: int) -> None:
        super().__init__()
        self.conv = Convolution(entering, 128, 1)
        self.fc1 = nn.Linear(128 * 4 * 4, 1024)
        self.fc2 = nn.Linear(1024, classes)
        self.dropout = nn.Dropout(0.7)

    def forward(self, maps: Tensor) -> Tensor:
        """Return logits [N, classes] of maps [N, entering, height, width]."""
        maps = self.conv(functional.adaptive_avg_pool2d(maps, 4)).flatten(1)
        logits: Tensor = self.fc2(self.dropout(functional.relu(self.fc1(maps))))
        return logits
