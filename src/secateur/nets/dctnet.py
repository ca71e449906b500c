"""A network that is cheap to train on one core, with weights to spare where planes are small.

The first layer is fixed: the discrete cosine transform of patches, over channels too, and its
negative, with a batch norm behind it. In photographs these coefficients are nearly uncorrelated
(N. Ahmed, T. Natarajan, K. R. Rao, "Discrete Cosine Transform", 1974), so a batch norm, which
gives each of them unit variance, whitens patches with no look at the data beforehand. That
whitened patches of both signs, and convolutions that start as the identity, train faster is from
K. Jordan's airbench (2024), which takes eigenvectors of the training images' patches instead.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from secateur.nets.shapes import InputShape, require_plane

PATCH = 2  # pixels; patches overlap
SMALLEST = 4  # pixels; a plane that is smaller is not pooled
WIDTHS = (32, 96)
SIDE = 3  # pixels that the last pooling leaves, or a few more
HIDDEN = 1024
MULTIPLE = 8  # channels; what vectors and matrix tiles take at once


class DctNet(nn.Module):
    """Fixed patches, three 3x3 convolutions, a wide linear layer and a linear classifier.

    The last convolution stands beside a shortcut. Convolutions start as the identity on as many
    channels as there are, and otherwise as torch draws them; they have no bias, since batch norm
    would remove it.

    Args:
        input_shape: (channels, height, width); planes behind the last pooling have sides of 1 to
            5, whatever the image's size.
        classes: number of logits.
        width: multiplies the channels of every layer between the first and the last.

    Raises:
        UsageError: the image is less than 4 pixels high or wide.
    """

    def __init__(self, input_shape: InputShape, classes: int, *, width: float = 1.0) -> None:
        super().__init__()
        require_plane("a dctnet", input_shape, SMALLEST)
        channels, height, across = input_shape
        basis = cosines(channels, PATCH)
        inputs = 2 * len(basis)
        self.patches = nn.Conv2d(channels, inputs, PATCH, bias=False)
        self.patches.weight = nn.Parameter(torch.cat([basis, -basis]), requires_grad=False)
        self.whiten = nn.BatchNorm2d(inputs, affine=False)
        self.relu = nn.ReLU()
        plane = (height - 1, across - 1)
        layers: list[nn.Module] = []
        for wide in WIDTHS:
            outputs = scaled(wide, width)
            pooled = min(plane) >= SMALLEST
            layers.append(_convolution(inputs, outputs, pooled=pooled))
            inputs = outputs
            if pooled:
                plane = (plane[0] // 2, plane[1] // 2)
        self.features = nn.Sequential(*layers)
        self.beside = _convolution(inputs, inputs, pooled=False)
        parts = tuple(max(1, size // SIDE) for size in plane)
        self.pool = nn.MaxPool2d(parts)
        positions = math.prod(size // part for size, part in zip(plane, parts, strict=True))
        hidden = scaled(HIDDEN, width)
        self.flatten = nn.Flatten()
        self.hidden = nn.Linear(inputs * positions, hidden, bias=False)
        self.norm = nn.BatchNorm1d(hidden)
        self.relu2 = nn.ReLU()
        self.linear = nn.Linear(hidden, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, classes] of images [N, C, H, W]."""
        x = self.features(self.relu(self.whiten(self.patches(images))))
        x = self.pool(x + self.beside(x))
        logits: Tensor = self.linear(self.relu2(self.norm(self.hidden(self.flatten(x)))))
        return logits


def _convolution(inputs: int, outputs: int, *, pooled: bool) -> nn.Sequential:
    """Convolution, pooling if any, batch norm, ReLU."""
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(convolution.weight[: min(inputs, outputs)])
    pool = [nn.MaxPool2d(2)] if pooled else []
    return nn.Sequential(convolution, *pool, nn.BatchNorm2d(outputs), nn.ReLU())


def scaled(channels: int, width: float) -> int:
    """Return a number of channels times a factor, as a multiple of 8 and at least 8."""
    return max(MULTIPLE, round(channels * width / MULTIPLE) * MULTIPLE)


def cosines(channels: int, side: int) -> Tensor:
    """Return the orthonormal cosine basis of patches, float32 [C * side², C, side, side].

    The DCT-II of each axis and their products (Ahmed et al. 1974, eq. 1). Over three channels it
    gives brightness, red against blue, and green against both.
    """
    c, s = _cosines(channels), _cosines(side)
    basis = torch.einsum("ax,by,cz->abcxyz", c, s, s)
    return basis.reshape(-1, channels, side, side).float()


def _cosines(size: int) -> Tensor:
    """Return the orthonormal DCT-II, float64 [frequencies, positions]."""
    at = torch.arange(size, dtype=torch.float64)
    basis = torch.cos(math.pi / size * (at + 0.5) * at[:, None])
    return basis * torch.where(at > 0, math.sqrt(2 / size), math.sqrt(1 / size))[:, None]


def _small(input_shape: InputShape, classes: int, *, width: float = 1.0) -> DctNet:
    return DctNet(input_shape, classes, width=width / 2)


# Weights roughly quadruple from one to the next.
NETS = {"dctnet-s": _small, "dctnet": DctNet}
