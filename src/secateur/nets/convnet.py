"""A small convolutional network that trains in minutes on two CPU cores.

Three blocks of two 3x3 convolutions. The pooling stands before the first batch norm and ReLU of
a block, where the arrangement of K. Jordan's airbench ("94% on CIFAR-10 in 3.29 seconds on a
single GPU", 2024) has it: everything after it then works on a quarter of the pixels.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from secateur.nets.shapes import InputShape, narrowed, require_plane

SMALLEST_POOLED = 4  # pixels; a smaller plane keeps its size, so that 8x8 digits keep 2x2


class Block(nn.Module):
    """Convolution, pooling if any, batch norm, ReLU; convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, *, pooled: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2) if pooled else nn.Identity()
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, inputs, H, W] to [N, outputs, H/2, W/2], or to the same H and W unpooled."""
        x = self.relu1(self.bn1(self.pool(self.conv1(x))))
        out: Tensor = self.relu2(self.bn2(self.conv2(x)))
        return out


class ConvNet(nn.Module):
    """Three blocks, the maximum over each remaining plane, and a linear classifier.

    Weights start as torch's layers draw them. The convolutions have no bias, since batch norm
    would remove it.

    Raises:
        UsageError: the image is less than 4 pixels high or wide.
    """

    def __init__(
        self,
        input_shape: InputShape,
        classes: int,
        *,
        widths: tuple[int, int, int] = (32, 96, 128),
        width: float = 1.0,
    ) -> None:
        super().__init__()
        require_plane("a convnet", input_shape, SMALLEST_POOLED)
        channels, *plane = input_shape
        blocks: list[nn.Module] = []
        for outputs in narrowed(widths, width):
            pooled = min(plane) >= SMALLEST_POOLED
            blocks.append(Block(channels, outputs, pooled=pooled))
            channels = outputs
            if pooled:
                plane = [size // 2 for size in plane]
        self.blocks = nn.Sequential(*blocks)
        self.linear = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, classes] of images [N, C, H, W]."""
        # amax and not AdaptiveMaxPool2d, whose gradient on a GPU depends on the order of threads.
        logits: Tensor = self.linear(self.blocks(images).amax((2, 3)))
        return logits


# Widths double from one to the next, and weights quadruple: 0.10 M, 0.38 M, 1.5 M.
NETS = {
    "convnet-s": partial(ConvNet, widths=(16, 48, 64)),
    "convnet": ConvNet,
    "convnet-l": partial(ConvNet, widths=(64, 192, 256)),
}
