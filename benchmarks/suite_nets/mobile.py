"""Image classifiers and backbones of depthwise convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from suite_nets.layers import (
    Headed,
    Inverted,
    SqueezeExcite,
    conv_norm,
    depthwise,
    eight,
    pooled,
)


def mobilenet_v1() -> nn.Module:
    """MobileNet 1.0: Howard et al. 2017 (arXiv 1704.04861), table 1.

    Figures: stem 32/2; separable 64, 128/2, 128, 256/2, 256, 512/2, five of 512, 1024/2, 1024.
    """
    layers, before = [conv_norm(3, 32, 3, 2)], 32
    for width, stride in (
        *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
        *(*[(512, 1)] * 5, (1024, 2), (1024, 1)),
    ):
        layers += [depthwise(before, 3, stride), conv_norm(before, width, 1)]
        before = width
    return Headed(nn.Sequential(*layers, pooled()), nn.Linear(1024, 1000))


def mobilenet_v2() -> nn.Module:
    """MobileNetV2 1.0: Sandler et al. 2018 (arXiv 1801.04381), table 2.

    Figures: expansion, width, count, stride of seven stages; 1280 at the end; ReLU6.
    """
    layers: list[nn.Module] = [conv_norm(3, 32, 3, 2, act=nn.ReLU6)]
    before = 32
    for expansion, width, count, stride in (
        *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
        *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
    ):
        for number in range(count):
            step = 1 if number else stride
            layers.append(Inverted(before, expansion * before, width, 3, step, act=nn.ReLU6))
            before = width
    layers += [conv_norm(320, 1280, 1, act=nn.ReLU6), pooled()]
    return Headed(nn.Sequential(*layers), nn.Linear(1280, 1000))


LARGE = (
    *((3, 16, 16, 0, 0, 1), (3, 64, 24, 0, 0, 2), (3, 72, 24, 0, 0, 1), (5, 72, 40, 1, 0, 2)),
    *((5, 120, 40, 1, 0, 1), (5, 120, 40, 1, 0, 1), (3, 240, 80, 0, 1, 2), (3, 200, 80, 0, 1, 1)),
    *((3, 184, 80, 0, 1, 1), (3, 184, 80, 0, 1, 1), (3, 480, 112, 1, 1, 1)),
    *((3, 672, 112, 1, 1, 1), (5, 672, 160, 1, 1, 2), (5, 960, 160, 1, 1, 1)),
    (5, 960, 160, 1, 1, 1),
)
SMALL = (
    *((3, 16, 16, 1, 0, 2), (3, 72, 24, 0, 0, 2), (3, 88, 24, 0, 0, 1), (5, 96, 40, 1, 1, 2)),
    *((5, 240, 40, 1, 1, 1), (5, 240, 40, 1, 1, 1), (5, 120, 48, 1, 1, 1), (5, 144, 48, 1, 1, 1)),
    *((5, 288, 96, 1, 1, 2), (5, 576, 96, 1, 1, 1), (5, 576, 96, 1, 1, 1)),
)
"""Tables 1 and 2 of Howard et al. 2019: kernel, expanded, width, squeezed?, h-swish?, stride."""


def stages(
    table: tuple[tuple[int, ...], ...], times: float = 1, *, squeezed: bool = True
) -> nn.ModuleList:
    """Return a stem and the blocks of MobileNetV3: Howard et al. 2019 (arXiv 1905.02244).

    Args:
        table: `LARGE` or `SMALL`.
        times: the width multiplier.
        squeezed: with squeeze-and-excite where the table has it.
    """
    before = eight(16 * times)
    blocks: list[nn.Module] = [conv_norm(3, before, 3, 2, act=nn.Hardswish)]
    for kernel, expanded, width, squeezes, swish, stride in table:
        hidden, outputs = eight(expanded * times), eight(width * times)
        squeeze = None
        if squeezes and squeezed:
            squeeze = SqueezeExcite(hidden, eight(hidden / 4), nn.Hardsigmoid)
        act = nn.Hardswish if swish else nn.ReLU
        blocks.append(Inverted(before, hidden, outputs, kernel, stride, act=act, squeeze=squeeze))
        before = outputs
    return nn.ModuleList(blocks)


def mobilenet_v3() -> nn.Module:
    """MobileNetV3-Small 1.0: Howard et al. 2019 (arXiv 1905.02244), table 2.

    Figures: eleven blocks of up to 576 channels; 576 and 1024 at the end; h-swish.
    """
    return Headed(
        nn.Sequential(
            *(*stages(SMALL), conv_norm(96, 576, 1, act=nn.Hardswish), pooled()),
            *(nn.Linear(576, 1024), nn.Hardswish()),
        ),
        nn.Linear(1024, 1000),
    )


def efficientnet_b0() -> nn.Module:
    """EfficientNet-B0: Tan and Le 2019 (arXiv 1905.11946), table 1.

    Figures: expansion, kernel, stride, width, count of seven stages; squeezed to a quarter of a
    block's inputs; swish; 1280 at the end.
    """
    layers: list[nn.Module] = [conv_norm(3, 32, 3, 2, act=nn.SiLU)]
    before = 32
    for expansion, kernel, stride, width, count in (
        *((1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3)),
        *((6, 5, 1, 112, 3), (6, 5, 2, 192, 4), (6, 3, 1, 320, 1)),
    ):
        for number in range(count):
            step, hidden = 1 if number else stride, expansion * before
            squeeze = SqueezeExcite(hidden, before // 4, nn.Sigmoid, nn.SiLU)
            layers.append(
                Inverted(before, hidden, width, kernel, step, act=nn.SiLU, squeeze=squeeze)
            )
            before = width
    layers += [conv_norm(320, 1280, 1, act=nn.SiLU), pooled()]
    return Headed(nn.Sequential(*layers), nn.Linear(1280, 1000))


class Shuffled(nn.Module):
    """A unit of ShuffleNetV2: one half passes, the other is convolved, then they are shuffled."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half, read = outputs // 2, inputs if stride == 2 else inputs // 2
        self.passed = nn.Identity()
        if stride == 2:
            self.passed = nn.Sequential(
                depthwise(inputs, 3, 2, act=None), conv_norm(inputs, half, 1)
            )
        self.halved = stride == 1
        self.body = nn.Sequential(
            conv_norm(read, half, 1), depthwise(half, 3, stride, act=None), conv_norm(half, half, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1) if self.halved else (x, x)
        x = torch.cat([self.passed(left), self.body(right)], 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def shufflenet_v2() -> nn.Module:
    """ShuffleNetV2 1.0: Ma et al. 2018 (arXiv 1807.11164), table 5.

    Figures: stem 24; 4, 8, 4 units of 116, 232, 464; 1024 at the end.
    """
    layers: list[nn.Module] = [conv_norm(3, 24, 3, 2), nn.MaxPool2d(3, 2, 1)]
    before = 24
    for width, count in ((116, 4), (232, 8), (464, 4)):
        layers.append(Shuffled(before, width, 2))
        layers += [Shuffled(width, width, 1) for _ in range(count - 1)]
        before = width
    layers += [conv_norm(464, 1024, 1), pooled()]
    return Headed(nn.Sequential(*layers), nn.Linear(1024, 1000))


def ds_cnn() -> nn.Module:
    """DS-CNN-S, which spots key words: Zhang et al. 2017 (arXiv 1711.07128).

    Figures: 49 frames of 10 coefficients; 64 of 10x4/2, four separable layers of 64; 12 words.
    """
    layers: list[nn.Module] = [nn.ZeroPad2d((1, 1, 4, 5)), nn.Conv2d(1, 64, (10, 4), 2, bias=False)]
    layers += [nn.BatchNorm2d(64), nn.ReLU()]
    for _ in range(4):
        layers += [depthwise(64), conv_norm(64, 64, 1)]
    return Headed(nn.Sequential(*layers, pooled()), nn.Linear(64, 12))
