"""LeNet-5. LeCun, Bottou, Bengio, Haffner: Gradient-Based Learning Applied to Document Recognition, 1998.

`LeNet5Paper` is section II.B of the paper: 32x32 input, squashing 1.7159 tanh(2x/3) (appendix A), trainable
subsampling, C3 joined to S2 by table I. 60,000 trainable parameters up to F6, as the paper says. It differs in this:
- the output is a linear layer and a softmax, where the paper has Euclidean radial basis units with fixed bitmap codes;
- weights start from N(0, 1/fan-in), where the paper draws from the uniform distribution on +-2.4/fan-in.

`LeNet5` is the variant that textbooks teach. It differs from the paper in this:
- 28x28 input, padded by 2 in the first convolution, where the paper pads the pictures;
- ReLU for the squashing function;
- plain average pooling, without coefficient, bias and squashing;
- C3 joined to all maps of S2 (2,416 parameters instead of 1,516);
- a linear output and a softmax, as above. 61,706 parameters for 10 classes and one channel.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

# Table I: the maps of S2 that each map of C3 sees, here in the paper's order of columns.
_TABLE: dict[int, list[tuple[int, ...]]] = {
    3: [(0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5)],
    4: [
        (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5),
        (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5),
    ],
    6: [(0, 1, 2, 3, 4, 5)],
}  # fmt: skip


class LeNet5(nn.Module):
    """The taught variant: float [N, channels, 28, 28] to logits [N, classes]."""

    def __init__(self, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 6, kernel_size=5, padding=2),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(6, 16, kernel_size=5),
            nn.ReLU(),
            nn.AvgPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(16 * 5 * 5, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, classes),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [N, classes] of pictures [N, channels, 28, 28]."""
        logits: Tensor = self.classifier(self.features(image))
        return logits


class LeNet5Paper(nn.Module):
    """The paper's network: float [N, channels, 32, 32] to logits [N, classes]."""

    def __init__(self, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(channels, 6, kernel_size=5)
        self.s2 = Subsampling(6)
        self.c3 = TableConvolution()
        self.s4 = Subsampling(16)
        self.c5 = nn.Conv2d(16, 120, kernel_size=5)
        self.f6 = nn.Linear(120, 84)
        self.output = nn.Linear(84, classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                fan_in = layer.weight[0].numel()
                nn.init.normal_(layer.weight, std=fan_in**-0.5)
                nn.init.constant_(layer.get_parameter("bias"), 0.0)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [N, classes] of pictures [N, channels, 32, 32]."""
        maps = squash(self.s2(squash(self.c1(image))))
        maps = squash(self.s4(squash(self.c3(maps))))
        hidden = squash(self.f6(squash(self.c5(maps)).flatten(1)))
        logits: Tensor = self.output(hidden)
        return logits


class Subsampling(nn.Module):
    """Each map's 2x2 fields summed, times a trainable coefficient, plus a trainable bias (section II.B, layer S2)."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.coefficient = nn.Parameter(torch.full((1, maps, 1, 1), 0.25))
        self.bias = nn.Parameter(torch.zeros(1, maps, 1, 1))

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps of half the height and width."""
        return 4 * functional.avg_pool2d(maps, 2) * self.coefficient + self.bias


class TableConvolution(nn.Module):
    """Layer C3: 16 maps, each from those maps of S2 that table I gives it."""

    def __init__(self) -> None:
        super().__init__()
        # Maps that see equally many are one grouped convolution over their inputs laid side by side.
        self.parts = nn.ModuleList(
            nn.Conv2d(seen * len(columns), len(columns), kernel_size=5, groups=len(columns))
            for seen, columns in _TABLE.items()
        )
        for seen, columns in _TABLE.items():
            self.register_buffer(f"seen{seen}", torch.tensor([map_ for column in columns for map_ in column]))

    def forward(self, maps: Tensor) -> Tensor:
        """Return 16 maps, 4 less in height and width."""
        inputs = [maps[:, self.get_buffer(f"seen{seen}")] for seen in _TABLE]
        return torch.cat([part(part_in) for part, part_in in zip(self.parts, inputs, strict=True)], dim=1)


def squash(activation: Tensor) -> Tensor:
    """Return 1.7159 tanh(2x/3), the paper's squashing function (appendix A)."""
    return 1.7159 * torch.tanh(activation * (2 / 3))
