"""A multi-layer perceptron, the baseline. LeCun et al., 1998 (see lenet.py), section III.C: 28x28-300-100-10.

The paper reports 3.05 % errors on MNIST's test set for it, to compare with 0.95 % of LeNet-5. It differs in this:
- ReLU for the squashing function;
- weights start as torch's do.

266,610 parameters for ten classes and one channel.
"""

from torch import Tensor, nn


class MLP(nn.Module):
    """Two hidden layers: float [N, channels, 28, 28] to logits [N, classes]."""

    def __init__(self, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * 28 * 28, 300),
            nn.ReLU(),
            nn.Linear(300, 100),
            nn.ReLU(),
            nn.Linear(100, classes),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [N, classes] of pictures [N, channels, 28, 28]."""
        logits: Tensor = self.layers(image)
        return logits
