"""Networks as torchvision and their papers have them, narrow, written here in plain torch."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model_zoo.blocks import (
    Beside,
    ConvNext,
    Grown,
    Halves,
    LastAxis,
    Partial,
    Pooled,
    Strips,
    Sum,
    conv,
    headed,
    inverted,
)
from model_zoo.entry import Entry, picture

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))

import channel_nets


def alexnet() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 5, 2, 2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(16, 24, 5, 1, 2)),
        *(nn.ReLU(), nn.Conv2d(24, 16, 3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten()),
        *(nn.Dropout(), nn.Linear(144, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 8)),
    )


def resnext() -> nn.Module:
    branch = nn.Sequential(conv(16, 32, 1), conv(32, 32, 3, groups=8), nn.Conv2d(32, 16, 1))
    return headed(nn.Sequential(conv(3, 16, 3, 2), Sum(branch), Sum(conv(16, 16))), 16)


def squeezenet() -> nn.Module:
    fire = nn.Sequential(conv(16, 8, 1), Beside(conv(8, 12, 1), conv(8, 12, 3)))
    return nn.Sequential(
        *(conv(3, 16, 3, 2), fire, nn.MaxPool2d(3, 2, ceil_mode=True), nn.Conv2d(24, 8, 1)),
        *(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )


def densenet() -> nn.Module:
    body = [conv(3, 8, 3, 2), *(Grown(8 + 4 * at, 4) for at in range(3))]
    return headed(nn.Sequential(*body, conv(20, 12, 1), nn.AvgPool2d(2), Grown(12, 4)), 16)


def googlenet() -> nn.Module:
    pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(12, 4, 1))
    mixed = Beside(
        *(conv(12, 8, 1), nn.Sequential(conv(12, 6, 1), conv(6, 8, 3))),
        *(nn.Sequential(conv(12, 4, 1), conv(4, 4, 5)), pool),
    )
    return headed(nn.Sequential(conv(3, 12, 3, 2), mixed), 24)


def inception_v3() -> nn.Module:
    strips = nn.Sequential(conv(12, 6, 1), conv(6, 6, (1, 7)), conv(6, 8, (7, 1)))
    ends = nn.Sequential(conv(12, 8, 1), Beside(conv(8, 4, (1, 3)), conv(8, 4, (3, 1))))
    pool = nn.Sequential(nn.AvgPool2d(3, 1, 1), conv(12, 4, 1))
    return headed(nn.Sequential(conv(3, 12, 3, 2), Beside(strips, ends, pool)), 20)


def shufflenet() -> nn.Module:
    return headed(nn.Sequential(conv(3, 16, 3, 2), Halves(16), Halves(16), conv(16, 24, 1)), 24)


def mobilenet_v2() -> nn.Module:
    return headed(nn.Sequential(conv(3, 8, 3, 2), inverted(8, 24, 8), inverted(8, 24, 12)), 12)


def mobilenet_v3() -> nn.Module:
    body = (conv(3, 8, 3, 2), inverted(8, 24, 8, True), nn.Hardswish(), inverted(8, 24, 12, True))
    return headed(nn.Sequential(*body), 12)


def convnext(second: bool = False) -> nn.Module:
    body = (nn.Conv2d(3, 16, 4, 4), ConvNext(16, second), ConvNext(16, second))
    return headed(nn.Sequential(*body), 16)


def fasternet(assign: bool = False) -> nn.Module:
    body = (nn.Conv2d(3, 16, 4, 4), Partial(16, assign), Partial(16, assign), conv(16, 24, 1))
    return headed(nn.Sequential(*body), 24)


def inceptionnext() -> nn.Module:
    return headed(nn.Sequential(nn.Conv2d(3, 32, 4, 4), Strips(32), Strips(32)), 32)


def mvit() -> nn.Module:
    blocks = nn.Sequential(Pooled(16, 4), Pooled(16, 4))
    return headed(nn.Sequential(nn.Conv2d(3, 16, 4, 4), LastAxis(blocks)), 16)


class RepVgg(nn.Module):
    """3×3, 1×1 and the input itself, each normed, summed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.large = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1), nn.BatchNorm2d(width))
        self.small = nn.Sequential(nn.Conv2d(width, width, 1), nn.BatchNorm2d(width))
        self.same = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.large(x) + self.small(x) + self.same(x))


class Ghost(nn.Module):
    """Half of the channels by a convolution, the other half cheaply from these."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = conv(inputs, outputs // 2, 1)
        self.cheap = conv(outputs // 2, outputs // 2, 3, groups=outputs // 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return torch.cat([y, self.cheap(y)], 1)


class Stages(nn.Module):
    """Cross-stage: the map goes in two, one part through blocks, as YOLO has it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = conv(width, width, 1)
        self.blocks = nn.ModuleList(Sum(conv(width // 2, width // 2)) for _ in range(2))
        self.last = conv(width * 2, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.first(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return self.last(torch.cat(parts, 1))


class Pyramid(nn.Module):
    """Maps of three sizes meet, and two heads read each of them, as RetinaNet has it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8, 3, 2)
        self.down = nn.ModuleList([conv(8, 12, 3, 2), conv(12, 16, 3, 2)])
        self.side = nn.ModuleList(nn.Conv2d(width, 8, 1) for width in (8, 12, 16))
        self.tower, self.classes, self.boxes = conv(8, 8), nn.Conv2d(8, 9, 1), nn.Conv2d(8, 12, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        maps = [self.stem(x)]
        for layer in self.down:
            maps.append(layer(maps[-1]))
        level, classes, boxes = None, [], []
        for side, found in zip(reversed(self.side), reversed(maps), strict=True):
            y = side(found)
            if level is not None:
                y = y + F.interpolate(level, scale_factor=2.0, mode="nearest")
            level, read = y, self.tower(y)
            classes.append(self.classes(read).flatten(2).transpose(1, 2).reshape(len(x), -1, 3))
            boxes.append(self.boxes(read).flatten(2).transpose(1, 2).reshape(len(x), -1, 4))
        return torch.cat(classes, 1), torch.cat(boxes, 1)


class Atrous(nn.Module):
    """Dilated branches and a pooled one, then a map of classes as large as the input."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(3, 8, 3, 2), conv(8, 16, 3, 2))
        self.branches = Beside(conv(16, 8, 1), *(conv(16, 8, 3, dilation=d) for d in (2, 4)))
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 8, 1), nn.ReLU())
        self.last = nn.Sequential(conv(32, 8, 1), nn.Conv2d(8, 5, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        far = F.interpolate(self.pooled(y), size=y.shape[2:], mode="bilinear")
        y = self.last(torch.cat([self.branches(y), far], 1))
        return F.interpolate(y, size=x.shape[2:], mode="bilinear", align_corners=False)


class Best(nn.Module):
    """A detector that gives its best boxes in the order of their scores."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(3, 8, 3, 2), conv(8, 12, 3, 2))
        self.scores, self.boxes = nn.Conv2d(12, 1, 1), nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.body(x)
        scores, at = self.scores(y).flatten(1).sigmoid().topk(10)
        boxes = self.boxes(y).flatten(2).transpose(1, 2)
        return scores, boxes.gather(1, at[..., None].expand(-1, -1, 4))


def own(make: Callable[[], nn.Module], side: int = 32) -> Entry:
    return Entry("plain torch", make, picture(side))


def tested(name: str) -> Entry:
    net = channel_nets.NETS[name]
    return Entry("plain torch", net.make, net.example)


CLASSIC: dict[str, Entry] = {
    "alexnet": own(alexnet),
    "vgg": tested("vgg16"),
    "resnet": tested("resnet"),
    "resnext": own(resnext),
    "squeezenet": own(squeezenet),
    "densenet": own(densenet),
    "googlenet": own(googlenet),
    "inception-v3": own(inception_v3),
    "shufflenet-v2": own(shufflenet),
    "mobilenet-v2": own(mobilenet_v2),
    "mobilenet-v3": own(mobilenet_v3),
    "convnext": own(convnext),
    "convnext-v2": own(lambda: convnext(True)),
    "fasternet": own(fasternet),
    "fasternet, assigned": own(lambda: fasternet(True)),
    "inception-next": own(inceptionnext),
    "mvit-v2": own(mvit),
    "repvgg": own(lambda: headed(nn.Sequential(conv(3, 8, 3, 2), RepVgg(8), RepVgg(8)), 8)),
    "ghostnet": own(lambda: headed(nn.Sequential(conv(3, 8, 3, 2), Ghost(8, 16)), 16)),
    "csp (yolo)": own(lambda: headed(nn.Sequential(conv(3, 16, 3, 2), Stages(16)), 16)),
    "pyramid (retinanet)": own(Pyramid),
    "atrous (deeplab)": own(Atrous),
    "sorted boxes": own(Best),
    "u-net": tested("unet"),
    "vit": tested("vit"),
    "swin": tested("swin"),
    "lstm": tested("lstm"),
    "conv 1-D": tested("conv1d"),
    "conv 3-D": tested("conv3d"),
}
