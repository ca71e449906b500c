"""Image classifiers of ordinary convolutions, 224 x 224; and perceptrons."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from suite_nets.layers import Headed, Residual, conv_norm, pooled


def alexnet() -> nn.Module:
    """AlexNet on one device: Krizhevsky 2014 (arXiv 1404.5997).

    Figures: convolutions 64 of 11x11/4, 192 of 5x5, 384, 256, 256 of 3x3; 4096, 4096, 1000.
    """
    relu = nn.ReLU
    return Headed(
        nn.Sequential(
            *(nn.Conv2d(3, 64, 11, 4, 2), relu(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(64, 192, 5, padding=2), relu(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(192, 384, 3, padding=1), relu(), nn.Conv2d(384, 256, 3, padding=1), relu()),
            *(nn.Conv2d(256, 256, 3, padding=1), relu(), nn.MaxPool2d(3, 2), nn.Flatten()),
            *(nn.Linear(9216, 4096), relu(), nn.Linear(4096, 4096), relu()),
        ),
        nn.Linear(4096, 1000),
    )


def vgg11() -> nn.Module:
    """VGG-11, configuration A of Simonyan and Zisserman 2014 (arXiv 1409.1556).

    Figures: 64, 128, 256, 256, 512, 512, 512, 512 of 3x3, five poolings; 4096, 4096, 1000.
    """
    layers: list[nn.Module] = []
    before = 3
    for width in (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0):
        if width:
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
            before = width
        else:
            layers.append(nn.MaxPool2d(2))
    layers += [nn.Flatten(), nn.Linear(25088, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU()]
    return Headed(nn.Sequential(*layers), nn.Linear(4096, 1000))


def resnet18() -> nn.Module:
    """ResNet-18: He et al. 2015 (arXiv 1512.03385), table 1.

    Figures: stem 64 of 7x7/2; two blocks of two 3x3 each at 64, 128, 256, 512.
    """

    def block(inputs: int, width: int, stride: int) -> list[nn.Module]:
        body = nn.Sequential(
            conv_norm(inputs, width, 3, stride), conv_norm(width, width, 3, act=None)
        )
        return [Residual(body, _shortcut(inputs, width, stride)), nn.ReLU()]

    layers, before = _stem(), 64
    for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [*block(before, width, stride), *block(width, width, 1)]
        before = width
    return Headed(nn.Sequential(*layers, pooled()), nn.Linear(512, 1000))


def resnet50() -> nn.Module:
    """ResNet-50: He et al. 2015 (arXiv 1512.03385), table 1; the stride is in the 3x3 (v1.5).

    Figures: 3, 4, 6, 3 bottlenecks of 64, 128, 256, 512, each four times as wide at its ends.
    """

    def block(inputs: int, width: int, stride: int) -> list[nn.Module]:
        body = nn.Sequential(
            *(conv_norm(inputs, width, 1), conv_norm(width, width, 3, stride)),
            conv_norm(width, 4 * width, 1, act=None),
        )
        return [Residual(body, _shortcut(inputs, 4 * width, stride)), nn.ReLU()]

    layers, before = _stem(), 64
    for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for number in range(count):
            layers += block(before, width, 1 if number else stride)
            before = 4 * width
    return Headed(nn.Sequential(*layers, pooled()), nn.Linear(2048, 1000))


def _stem() -> list[nn.Module]:
    return [conv_norm(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module | None:
    if inputs == outputs and stride == 1:
        return None
    return conv_norm(inputs, outputs, 1, stride, act=None)


class Fire(nn.Module):
    """Squeeze by 1x1, expand by 1x1 and 3x3 side by side."""

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.narrow = nn.Conv2d(squeezed, expanded, 1)
        self.wide = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x).relu()
        return torch.cat([self.narrow(x).relu(), self.wide(x).relu()], 1)


def squeezenet() -> nn.Module:
    """SqueezeNet 1.1: Iandola et al. 2016 (arXiv 1602.07360), and the authors' repository.

    Figures: fires of 16/64 twice, 32/128 twice, 48/192 twice, 64/256 twice; 1000 of 1x1.
    """

    def pool() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    body = nn.Sequential(
        *(nn.Conv2d(3, 64, 3, 2), nn.ReLU(), pool()),
        *(Fire(64, 16, 64), Fire(128, 16, 64), pool()),
        *(Fire(128, 32, 128), Fire(256, 32, 128), pool()),
        *(Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256)),
    )
    return Headed(body, nn.Sequential(nn.Conv2d(512, 1000, 1), nn.ReLU(), pooled()))


class Grown(nn.Module):
    """A layer of DenseNet-BC: its input, and 32 channels more."""

    def __init__(self, inputs: int, growth: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, 4 * growth, 1, bias=False)),
            *(nn.BatchNorm2d(4 * growth), nn.ReLU()),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], 1)


def densenet() -> nn.Module:
    """DenseNet-121, less deep: Huang et al. 2016 (arXiv 1608.06993), table 1.

    Figures: growth 32, bottlenecks of 128, halving transitions; blocks of 6, 12, 6, 4 layers
    rather than 6, 12, 24, 16.
    """
    layers, width = _stem(), 64
    for number, count in enumerate((6, 12, 6, 4)):
        if number:
            layers += [nn.BatchNorm2d(width), nn.ReLU()]
            layers += [nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2)]
            width //= 2
        for _ in range(count):
            layers.append(Grown(width))
            width += 32
    layers += [nn.BatchNorm2d(width), nn.ReLU(), pooled()]
    return Headed(nn.Sequential(*layers), nn.Linear(width, 1000))


def lenet300() -> nn.Module:
    """LeNet-300-100: LeCun et al. 1998, the perceptron of Han et al. 2015 (arXiv 1506.02626).

    Figures: 784, 300, 100, 10.
    """
    return Headed(
        nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU()),
        nn.Linear(100, 10),
    )


class Mixed(nn.Module):
    """A layer of MLP-Mixer: across positions, then within each."""

    def __init__(self, positions: int, width: int, across: int, within: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.across = _perceptron(positions, across)
        self.within = _perceptron(width, within)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.across(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.within(self.norm2(x))


def _perceptron(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class Mixer(nn.Module):
    """MLP-Mixer-S/16, less deep: Tolstikhin et al. 2021 (arXiv 2105.01601), table 1.

    Figures: 196 patches of 16x16, width 512, hidden 256 and 2048; four layers rather than eight.
    """

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 512, 16, 16)
        self.layers = nn.Sequential(*(Mixed(196, 512, 256, 2048) for _ in range(4)))
        self.norm, self.head = nn.LayerNorm(512), nn.Linear(512, 1000)

    def forward(self, images: Tensor) -> Tensor:
        x = self.layers(self.patches(images).flatten(2).transpose(1, 2))
        return self.head(self.norm(x).mean(1))
