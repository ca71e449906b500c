"""Fully connected networks."""

from __future__ import annotations

import math

from torch import Tensor, nn

from secateur.nets.shapes import InputShape, narrowed


class Mlp(nn.Module):
    """Linear layers, each followed by batch norm and ReLU, and a linear classifier.

    Weights start as torch's `nn.Linear` draws them. The hidden layers have no bias, since batch
    norm would remove it.
    """

    def __init__(
        self,
        input_shape: InputShape,
        classes: int,
        *,
        hidden: tuple[int, ...] = (512, 256),
        width: float = 1.0,
    ) -> None:
        super().__init__()
        inputs = math.prod(input_shape)
        layers: list[nn.Module] = []
        for outputs in narrowed(hidden, width):
            layers += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]
            inputs = outputs
        self.flatten = nn.Flatten()
        self.features = nn.Sequential(*layers)
        self.linear = nn.Linear(inputs, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, classes] of images [N, C, H, W]."""
        logits: Tensor = self.linear(self.features(self.flatten(images)))
        return logits


NETS = {"mlp": Mlp}
