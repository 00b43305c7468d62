"""All-CNN-C. Springenberg, Dosovitskiy, Brox, Riedmiller: Striving for Simplicity, 2014 (ICLR 2015 workshop), table 2.

No pooling and no fully connected layer: convolutions of stride 2 halve height and width, and the last convolution gives
one map a class, averaged over its 6x6 positions. It differs from the paper in this:
- no ReLU on the maps of the last convolution, so that logits may be negative and no class falls silent in training;
- weights start as He et al. (2015) have it; the paper does not say how its own do.

1,369,738 parameters for ten classes and three channels (the paper: about 1.4 million).
"""

from torch import Tensor, nn


class AllCNN(nn.Module):
    """float [N, channels, 32, 32] to logits [N, classes]."""

    def __init__(self, channels: int = 3, classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Dropout(0.2),
            *_convolution(channels, 96),
            *_convolution(96, 96),
            *_convolution(96, 96, stride=2),
            nn.Dropout(0.5),
            *_convolution(96, 192),
            *_convolution(192, 192),
            *_convolution(192, 192, stride=2),
            nn.Dropout(0.5),
            *_convolution(192, 192, padding=0),
            nn.Conv2d(192, 192, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(192, classes, 1),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.get_parameter("bias"))

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [N, classes] of pictures [N, channels, 32, 32]."""
        logits: Tensor = self.features(image).mean((2, 3))
        return logits


def _convolution(entering: int, leaving: int, *, stride: int = 1, padding: int = 1) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(entering, leaving, 3, stride, padding), nn.ReLU(inplace=True)
