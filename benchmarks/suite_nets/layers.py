"""Layers that networks of several kinds share."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

Activation = Callable[[], nn.Module]


class Headed(nn.Module):
    """A body and the layer that gives the outputs, which is called `head` in every network here."""

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body, self.head = body, head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class Residual(nn.Module):
    """A body whose input is added to what it gives, by way of a shortcut."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.body(x)


def conv_norm(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    stride: int = 1,
    *,
    groups: int = 1,
    act: Activation | None = nn.ReLU,
) -> nn.Sequential:
    """Return a convolution without bias that keeps the plane (at stride 1), its norm, and `act`."""
    conv = nn.Conv2d(
        inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False
    )
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), *([act()] if act else []))


def depthwise(
    width: int, kernel: int = 3, stride: int = 1, *, act: Activation | None = nn.ReLU
) -> nn.Sequential:
    """Return a depthwise convolution, its norm, and `act`."""
    return conv_norm(width, width, kernel, stride, groups=width, act=act)


def pooled() -> nn.Sequential:
    """Return the mean over the plane: [N, C, H, W] to [N, C]."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


class SqueezeExcite(nn.Module):
    """Channels weighed by what two layers make of their means (Hu et al. 2018)."""

    def __init__(self, width: int, inner: int, gate: Activation, act: Activation = nn.ReLU) -> None:
        super().__init__()
        self.weigh = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, inner, 1), act(), nn.Conv2d(inner, width, 1)
        )
        self.gate = gate()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.weigh(x))


class Inverted(nn.Module):
    """Expand, filter each channel, weigh the channels, project (Sandler et al. 2018)."""

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        kernel: int,
        stride: int,
        *,
        act: Activation,
        squeeze: nn.Module | None = None,
    ) -> None:
        super().__init__()
        grows = hidden != inputs
        self.expand = conv_norm(inputs, hidden, 1, act=act) if grows else nn.Identity()
        self.filter = depthwise(hidden, kernel, stride, act=act)
        self.squeeze = squeeze or nn.Identity()
        self.project = conv_norm(hidden, outputs, 1, act=None)
        self.same = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return self.after(x, self.expand(x))

    def after(self, x: Tensor, expanded: Tensor) -> Tensor:
        """Go on from the expanded input: detectors read that, too."""
        y = self.project(self.squeeze(self.filter(expanded)))
        return x + y if self.same else y


def eight(width: float) -> int:
    """Return the multiple of eight that is nearest, and no less than nine tenths of the width."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * width else rounded + 8
