"""A small residual network, which two CPU cores train in minutes."""

from itertools import pairwise

from torch import Tensor, nn

__all__ = ["SmallEncoder"]


class SmallEncoder(nn.Module):
    """A stem and three residual blocks of two 3 x 3 convolutions, for images of 8 to 64 px.

    Each block halves the image. Only the stem works at full size, where maps cost a CPU most.
    Shortcuts average before they project (He et al., "Bag of Tricks for Image Classification", CVPR
    2019), so that no pixel is dropped.

    Args:
        widths: channels of the stem and of the blocks; the last is the number of features.
    """

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 128)) -> None:
        super().__init__()
        self.stem = _convolution(3, widths[0])
        self.blocks = nn.Sequential(*(_Block(a, b) for a, b in pairwise(widths)))
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, images: Tensor) -> Tensor:
        """Encode images `(B, 3, S, S)` as features `(B, widths[-1])`."""
        return self.pool(self.blocks(self.stem(images).relu_())).flatten(1)


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = _convolution(inputs, outputs, stride=2)
        self.second = _convolution(outputs, outputs)
        # ceil_mode: an image of one pixel stays one.
        pool = nn.AvgPool2d(2, ceil_mode=True)
        self.shortcut = nn.Sequential(pool, _convolution(inputs, outputs, size=1))

    def forward(self, x: Tensor) -> Tensor:
        return (self.second(self.first(x).relu_()) + self.shortcut(x)).relu_()


def _convolution(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )
