"""Networks that find, read, cut out or make images."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from suite_nets.layers import Headed, Residual, conv_norm, depthwise
from suite_nets.mobile import LARGE, stages


class SsdLite(nn.Module):
    """SSDLite on MobileNetV3-Large, 320 x 320: Howard et al. 2019 (arXiv 1905.02244).

    Figures: maps of the 13th expansion (672) and of 960, 512, 256, 256, 128; 6 boxes, 91 classes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.blocks = stages(LARGE)
        self.last = conv_norm(160, 960, 1, act=nn.Hardswish)
        self.more = nn.ModuleList()
        widths = [672, 960, 512, 256, 256, 128]
        for before, width in pairwise(widths[1:]):
            half = width // 2
            self.more.append(
                nn.Sequential(
                    conv_norm(before, half, 1, act=nn.ReLU6),
                    depthwise(half, 3, 2, act=nn.ReLU6),
                    conv_norm(half, width, 1, act=nn.ReLU6),
                )
            )
        self.filters = nn.ModuleList(
            nn.ModuleList([depthwise(width, act=nn.ReLU6) for width in widths]) for _ in range(2)
        )
        self.head = nn.ModuleList(
            nn.ModuleList([nn.Conv2d(width, 6 * each, 1) for width in widths]) for each in (4, 91)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes [N, 3234, 4] and classes [N, 3234, 91] of images [N, 3, 320, 320]."""
        x, maps = images, []
        for number, block in enumerate(self.blocks):
            if number == 13:
                maps.append(block.expand(x))
                x = block.after(x, maps[0])
            else:
                x = block(x)
        maps.append(self.last(x))
        for layer in self.more:
            maps.append(layer(maps[-1]))
        boxes, classes = (
            torch.cat(
                [
                    layer(filters(x)).permute(0, 2, 3, 1).reshape(x.shape[0], -1, each)
                    for layer, filters, x in zip(head, part, maps, strict=True)
                ],
                1,
            )
            for head, part, each in zip(self.head, self.filters, (4, 91), strict=True)
        )
        return boxes, classes


class BlazeBlock(nn.Module):
    """One or two separable 5x5 layers beside a shortcut that is pooled and filled with zeros."""

    def __init__(self, inputs: int, outputs: int, stride: int, narrow: int = 0) -> None:
        super().__init__()
        between = narrow or outputs
        self.body = nn.Sequential(
            nn.Conv2d(inputs, inputs, 5, stride, 2, groups=inputs), nn.Conv2d(inputs, between, 1)
        )
        if narrow:
            self.body.append(nn.ReLU())
            self.body.append(nn.Conv2d(narrow, narrow, 5, padding=2, groups=narrow))
            self.body.append(nn.Conv2d(narrow, outputs, 1))
        self.pool = nn.MaxPool2d(2) if stride == 2 else nn.Identity()
        self.more = outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        return (F.pad(self.pool(x), (0, 0, 0, 0, 0, self.more)) + self.body(x)).relu()


class BlazeFace(nn.Module):
    """BlazeFace, 128 x 128: Bazarevsky et al. 2019 (arXiv 1907.05047), table 4.

    Figures: stem 24 of 5x5/2; five single blocks of 24 to 48, six double ones of 24 within 96;
    two anchors of 17 numbers on 16 x 16, six on 8 x 8.
    """

    def __init__(self) -> None:
        super().__init__()
        self.early = nn.Sequential(
            *(nn.Conv2d(3, 24, 5, 2, 2), nn.ReLU(), BlazeBlock(24, 24, 1), BlazeBlock(24, 24, 1)),
            *(BlazeBlock(24, 48, 2), BlazeBlock(48, 48, 1), BlazeBlock(48, 48, 1)),
            *(BlazeBlock(48, 96, 2, 24), BlazeBlock(96, 96, 1, 24), BlazeBlock(96, 96, 1, 24)),
        )
        self.late = nn.Sequential(
            BlazeBlock(96, 96, 2, 24), BlazeBlock(96, 96, 1, 24), BlazeBlock(96, 96, 1, 24)
        )
        self.head = nn.ModuleList([nn.Conv2d(96, 2 * 17, 1), nn.Conv2d(96, 6 * 17, 1)])

    def forward(self, images: Tensor) -> Tensor:
        """Return scores, boxes and points [N, 896, 17] of images [N, 3, 128, 128]."""
        fine = self.early(images)
        maps = zip(self.head, (fine, self.late(fine)), strict=True)
        return torch.cat(
            [layer(x).permute(0, 2, 3, 1).reshape(len(x), -1, 17) for layer, x in maps], 1
        )


class YoloTiny(nn.Module):
    """YOLOv3-tiny, 416 x 416: Redmon and Farhadi 2018 (arXiv 1804.02767), authors' configuration.

    Figures: 16 to 1024 of 3x3 with leaky ReLU; outputs of 255 on 13 x 13 and 26 x 26.
    """

    def __init__(self) -> None:
        super().__init__()

        def conv(inputs: int, outputs: int, kernel: int = 3) -> nn.Module:
            return conv_norm(inputs, outputs, kernel, act=lambda: nn.LeakyReLU(0.1))

        widths = (3, 16, 32, 64, 128)
        early: list[nn.Module] = []
        for before, width in pairwise(widths):
            early += [conv(before, width), nn.MaxPool2d(2)]
        self.early = nn.Sequential(*early, conv(128, 256))
        same = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.MaxPool2d(2, 1))
        self.late = nn.Sequential(
            *(nn.MaxPool2d(2), conv(256, 512), same, conv(512, 1024), conv(1024, 256, 1))
        )
        self.coarse, self.up, self.fine = conv(256, 512), conv(256, 128, 1), conv(384, 256)
        self.head = nn.ModuleList([nn.Conv2d(512, 255, 1), nn.Conv2d(256, 255, 1)])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the outputs on both maps, [N, 255, 13, 13] and [N, 255, 26, 26]."""
        early = self.early(images)
        late = self.late(early)
        up = F.interpolate(self.up(late), scale_factor=2.0)
        fine = self.fine(torch.cat([up, early], 1))
        return self.head[0](self.coarse(late)), self.head[1](fine)


class TextDetector(nn.Module):
    """DBNet, 352 x 608: Liao et al. 2019 (arXiv 1911.08947); light: Du et al. 2020 (2009.09941).

    Figures: MobileNetV3-Large 0.5 without squeezing; a pyramid of 96, 24 a level; two transposed
    2x2/2 to one map of probabilities.
    """

    ENDS = (3, 6, 12)  # blocks at strides 4, 8, 16; the last convolution is at 32

    def __init__(self) -> None:
        super().__init__()
        self.blocks = stages(LARGE, 0.5, squeezed=False)
        self.last = conv_norm(80, 480, 1, act=nn.Hardswish)
        self.inner = nn.ModuleList(
            nn.Conv2d(width, 96, 1, bias=False) for width in (16, 24, 56, 480)
        )
        self.outer = nn.ModuleList(nn.Conv2d(96, 24, 3, padding=1, bias=False) for _ in range(4))
        self.grow = nn.Sequential(
            *(conv_norm(96, 24), nn.ConvTranspose2d(24, 24, 2, 2), nn.BatchNorm2d(24), nn.ReLU())
        )
        self.head = nn.Sequential(nn.ConvTranspose2d(24, 1, 2, 2), nn.Sigmoid())

    def forward(self, images: Tensor) -> Tensor:
        """Return probabilities [N, 1, H, W] of images [N, 3, H, W]; sides are multiples of 32."""
        x, maps = images, []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in self.ENDS:
                maps.append(x)
        maps.append(self.last(x))
        maps = [layer(x) for layer, x in zip(self.inner, maps, strict=True)]
        for level in (2, 1, 0):
            maps[level] = maps[level] + F.interpolate(maps[level + 1], scale_factor=2.0)
        maps = [
            F.interpolate(layer(x), scale_factor=float(2**level)) if level else layer(x)
            for level, (layer, x) in enumerate(zip(self.outer, maps, strict=True))
        ]
        return self.head(self.grow(torch.cat(maps[::-1], 1)))


class Crnn(nn.Module):
    """CRNN, which reads a line of 32 x 320: Shi et al. 2015 (arXiv 1507.05717), table 1.

    Figures: 64, 128, 256, 256, 512, 512 of 3x3, 512 of 2x2; two LSTM of 256 both ways; 37 signs.
    """

    def __init__(self) -> None:
        super().__init__()
        act = nn.ReLU
        self.body = nn.Sequential(
            *(nn.Conv2d(1, 64, 3, padding=1), act(), nn.MaxPool2d(2)),
            *(nn.Conv2d(64, 128, 3, padding=1), act(), nn.MaxPool2d(2)),
            *(nn.Conv2d(128, 256, 3, padding=1), act(), nn.Conv2d(256, 256, 3, padding=1), act()),
            *(nn.MaxPool2d((2, 2), (2, 1), (0, 1)), conv_norm(256, 512), conv_norm(512, 512)),
            *(nn.MaxPool2d((2, 2), (2, 1), (0, 1)), nn.Conv2d(512, 512, 2), act()),
        )
        self.lstm = nn.LSTM(512, 256, 2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(512, 37)

    def forward(self, lines: Tensor) -> Tensor:
        """Return signs [N, 81, 37] of lines [N, 1, 32, 320]."""
        return self.head(self.lstm(self.body(lines).squeeze(2).transpose(1, 2))[0])


class UNet(nn.Module):
    """U-Net of brain scans, 256 x 256: Buda et al. 2019 (arXiv 1906.03720), after 1505.04597.

    Figures: 32, 64, 128, 256 and 512 channels, two 3x3 a level with norms, transposed 2x2/2.
    """

    def __init__(self) -> None:
        super().__init__()

        def level(inputs: int, width: int) -> nn.Module:
            return nn.Sequential(conv_norm(inputs, width), conv_norm(width, width))

        widths = (32, 64, 128, 256)
        self.down = nn.ModuleList(level(before, width) for before, width in pairwise((3, *widths)))
        self.middle = level(256, 512)
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, 2) for w in widths[::-1])
        self.back = nn.ModuleList(level(2 * width, width) for width in widths[::-1])
        self.head = nn.Conv2d(32, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return probabilities [N, 1, 256, 256] of images [N, 3, 256, 256]."""
        x, kept = images, []
        for layer in self.down:
            kept.append(layer(x))
            x = F.max_pool2d(kept[-1], 2)
        x = self.middle(x)
        for up, back, skipped in zip(self.up, self.back, kept[::-1], strict=True):
            x = back(torch.cat([up(x), skipped], 1))
        return self.head(x).sigmoid()


def vq_vae() -> nn.Module:
    """VQ-VAE without its quantiser, 128 x 128: van den Oord et al. 2017 (arXiv 1711.00937), 4.1.

    Figures: two 4x4/2 and two residual blocks (3x3, 1x1) of 256; as many back, transposed.
    """

    def block() -> nn.Module:
        return Residual(
            nn.Sequential(
                *(nn.ReLU(), nn.Conv2d(256, 256, 3, padding=1)),
                *(nn.ReLU(), nn.Conv2d(256, 256, 1)),
            )
        )

    body = nn.Sequential(
        *(nn.Conv2d(3, 256, 4, 2, 1), nn.ReLU(), nn.Conv2d(256, 256, 4, 2, 1)),
        *(block(), block(), block(), block()),
        *(nn.ConvTranspose2d(256, 256, 4, 2, 1), nn.ReLU()),
    )
    return Headed(body, nn.ConvTranspose2d(256, 3, 4, 2, 1))


def fsrcnn() -> nn.Module:
    """FSRCNN, 120 x 160 to three times that: Dong et al. 2016 (arXiv 1608.00367), (56, 12, 4).

    Figures: 56 of 5x5, 12 of 1x1, four 12 of 3x3, 56 of 1x1, transposed 9x9/3; PReLU.
    """

    def conv(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), nn.PReLU(outputs)]

    middle = [layer for _ in range(4) for layer in conv(12, 12, 3)]
    body = nn.Sequential(*conv(1, 56, 5), *conv(56, 12, 1), *middle, *conv(12, 56, 1))
    return Headed(body, nn.ConvTranspose2d(56, 1, 9, 3, 4, output_padding=2))
