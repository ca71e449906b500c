"""Residual networks in their forms for small images.

Source: K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition" (2015):
§4.2 for resnet20, resnet32 and resnet56; Table 1 for resnet18, whose first layers (a 7x7
convolution of stride 2 and pooling, made for 224x224 images) are here one 3x3 convolution.
Initialisation: He et al., "Delving Deep into Rectifiers" (2015), §2.2: normal, by fan-out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from secateur.nets.shapes import InputShape, narrowed, require_plane


class Subsample(nn.Module):
    """The shortcut without parameters, option A of §3.3: every second pixel, zeros as channels.

    Half of the new channels, all zero, go before the old ones and half after them.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (outputs - inputs) // 2
        self.after = outputs - inputs - self.before

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, inputs, H, W] to [N, outputs, H/stride, W/stride], rounded up."""
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.before, self.after))


class Project(nn.Sequential):
    """The shortcut with parameters, option B of §3.3: a 1x1 convolution and batch norm."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
        )


Shortcut = Callable[[int, int, int], nn.Module]
"""(input channels, output channels, stride) → the module beside two convolutions."""


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, each with batch norm; the sum goes through ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else shortcut(inputs, outputs, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, inputs, H, W] to [N, outputs, H/stride, W/stride], rounded up."""
        out = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        out = self.relu2(out + self.shortcut(x))
        return out  # type: ignore[no-any-return]


class ResNet(nn.Module):
    """A 3x3 convolution, stages of residual blocks, the mean of each plane, a linear classifier.

    Args:
        input_shape: (channels, height, width).
        classes: number of logits.
        widths: channels of each stage; every stage but the first begins with a stride of 2.
        depth: blocks in a stage.
        shortcut: what joins two stages.
        width: what the channels are multiplied by.

    Raises:
        UsageError: the image has fewer pixels in a row or column than the strides take together.
    """

    def __init__(
        self,
        input_shape: InputShape,
        classes: int,
        *,
        widths: tuple[int, ...],
        depth: int,
        shortcut: Shortcut,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        widths = narrowed(widths, width)
        require_plane("this resnet", input_shape, 2 ** (len(widths) - 1))
        self.conv1 = nn.Conv2d(input_shape[0], widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        self.stages: list[str] = []
        for number, (inputs, outputs) in enumerate(pairwise((widths[0], *widths)), start=1):
            first = Block(inputs, outputs, 1 if number == 1 else 2, shortcut)
            rest = (Block(outputs, outputs, 1, shortcut) for _ in range(depth - 1))
            self.add_module(f"layer{number}", nn.Sequential(first, *rest))
            self.stages.append(f"layer{number}")
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(widths[-1], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, classes] of images [N, C, H, W]."""
        x = self.relu(self.bn1(self.conv1(images)))
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        logits: Tensor = self.linear(self.flatten(self.pool(x)))
        return logits


# Depth counts the layers with weights: 6n + 2 in §4.2, with n blocks in each of three stages.
_cifar = partial(ResNet, widths=(16, 32, 64), shortcut=Subsample)

NETS = {
    "resnet20": partial(_cifar, depth=3),
    "resnet32": partial(_cifar, depth=5),
    "resnet56": partial(_cifar, depth=9),
    "resnet18": partial(ResNet, widths=(64, 128, 256, 512), depth=2, shortcut=Project),
}
