"""Networks that listen: convolutions over samples and spectra, recurrences over frames."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from suite_nets.layers import Headed, Residual


def dnsmos() -> nn.Module:
    """DNSMOS P.835, which rates speech: Reddy et al. 2021 (arXiv 2110.01763), table 1.

    Figures: 900 frames of 120 bands; 128, 64, 64, 32, 32, 32, 64 of 3x3, three poolings; 128, 64,
    3.
    """

    def conv(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]

    body = nn.Sequential(
        *(*conv(1, 128), *conv(128, 64), *conv(64, 64), *conv(64, 32), nn.MaxPool2d(2)),
        *(*conv(32, 32), nn.MaxPool2d(2), *conv(32, 32), nn.MaxPool2d(2), *conv(32, 64)),
        *(nn.AdaptiveMaxPool2d(1), nn.Flatten()),
        *(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU()),
    )
    return Headed(body, nn.Linear(64, 3))


def crepe() -> nn.Module:
    """CREPE, which hears pitch: Kim et al. 2018 (arXiv 1802.06182), figure 1.

    Figures: 1024 samples; 1024 of 512/4, then 128, 128, 128, 256, 512 of 64; halved after each;
    360 pitches.
    """
    layers: list[nn.Module] = []
    before = 1
    for width in (1024, 128, 128, 128, 256, 512):
        first = before == 1
        layers += [
            nn.ZeroPad1d((254, 254) if first else (31, 32)),
            nn.Conv1d(before, width, 512 if first else 64, 4 if first else 1),
            *(nn.ReLU(), nn.BatchNorm1d(width), nn.MaxPool1d(2)),
        ]
        before = width
    return Headed(
        nn.Sequential(*layers, nn.Flatten()), nn.Sequential(nn.Linear(2048, 360), nn.Sigmoid())
    )


class Separated(nn.Module):
    """A block of Conv-TasNet: wide, filtered by a dilated kernel, and narrow again, twice."""

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv1d(128, 512, 1), nn.PReLU(), nn.GroupNorm(1, 512, eps=1e-8)),
            nn.Conv1d(512, 512, 3, padding=dilation, dilation=dilation, groups=512),
            *(nn.PReLU(), nn.GroupNorm(1, 512, eps=1e-8)),
        )
        self.residual, self.skip = nn.Conv1d(512, 128, 1), nn.Conv1d(512, 128, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.body(x)
        return x + self.residual(y), self.skip(y)


class ConvTasNet(nn.Module):
    """Conv-TasNet, which parts two speakers: Luo and Mesgarani 2018 (arXiv 1809.07454), table 2.

    Figures: a second of 8 kHz; N 512, L 16, B 128, H 512, P 3, X 8; R 1 rather than 3.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Conv1d(1, 512, 16, 8, bias=False)
        self.norm, self.narrow = nn.GroupNorm(1, 512, eps=1e-8), nn.Conv1d(512, 128, 1)
        self.blocks = nn.ModuleList(Separated(2**number) for number in range(8))
        self.mask = nn.Sequential(nn.PReLU(), nn.Conv1d(128, 1024, 1), nn.Sigmoid())
        self.head = nn.ConvTranspose1d(512, 1, 16, 8, bias=False)

    def forward(self, sound: Tensor) -> Tensor:
        """Return two voices [N, 2, 8000] of sounds [N, 1, 8000]."""
        encoded = self.encode(sound).relu()
        x = self.narrow(self.norm(encoded))
        total: Tensor | float = 0.0
        for block in self.blocks:
            x, skipped = block(x)
            total = total + skipped
        n, c, t = encoded.shape
        voices = self.mask(total).view(n, 2, c, t) * encoded[:, None]
        return self.head(voices.view(2 * n, c, t)).view(n, 2, -1)


class PyanNet(nn.Module):
    """PyanNet, which says who speaks when: Bredin and Laurent 2021 (arXiv 2104.04045).

    Figures: five seconds of 16 kHz; 80 of 251/10, 60 of 5, 60 of 5, each pooled by 3; four LSTM of
    128 both ways; 128, 128, 7 (with the filters of the first layer as they are, not as sines).
    """

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm1d(1, affine=True)
        layers: list[nn.Module] = []
        for inputs, width, kernel, stride in ((1, 80, 251, 10), (80, 60, 5, 1), (60, 60, 5, 1)):
            layers += [nn.Conv1d(inputs, width, kernel, stride), nn.MaxPool1d(3)]
            layers += [nn.InstanceNorm1d(width, affine=True), nn.LeakyReLU()]
        self.body = nn.Sequential(*layers)
        self.lstm = nn.LSTM(60, 128, 4, bidirectional=True, batch_first=True)
        self.linear = nn.Sequential(
            nn.Linear(256, 128), nn.LeakyReLU(), nn.Linear(128, 128), nn.LeakyReLU()
        )
        self.head = nn.Linear(128, 7)

    def forward(self, sound: Tensor) -> Tensor:
        """Return the logarithms of shares [N, 293, 7] of sounds [N, 1, 80000]."""
        x = self.body(self.norm(sound)).transpose(1, 2)
        return self.head(self.linear(self.lstm(x)[0])).log_softmax(-1)


class VoiceActivity(nn.Module):
    """Personal VAD: Ding et al. 2019 (arXiv 1908.04284), section 3.

    Figures: 100 frames of 40 bands; two LSTM of 64, one way; 64, 3.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(40, 64, 2, batch_first=True)
        self.linear, self.head = nn.Linear(64, 64), nn.Linear(64, 3)

    def forward(self, frames: Tensor) -> Tensor:
        """Return shares [N, T, 3] of frames [N, T, 40]."""
        return self.head(self.linear(self.lstm(frames)[0]).tanh()).softmax(-1)


class NsNet2(nn.Module):
    """NSNet2, which removes noise: Braun and Tashev 2020 (arXiv 2008.06412).

    Figures: 100 frames of 161 bins; 400, two GRU of 400, 600, 600, 161.
    """

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Linear(161, 400)
        self.gru = nn.GRU(400, 400, 2, batch_first=True)
        self.after = nn.Sequential(nn.Linear(400, 600), nn.ReLU(), nn.Linear(600, 600), nn.ReLU())
        self.head = nn.Linear(600, 161)

    def forward(self, frames: Tensor) -> Tensor:
        """Return gains [N, T, 161] of frames [N, T, 161]."""
        return self.head(self.after(self.gru(self.before(frames).relu())[0])).sigmoid()


class RnNoise(nn.Module):
    """RNNoise, which removes noise: Valin 2017 (arXiv 1709.08243), figure 2.

    Figures: 100 frames of 42 features; 24, GRU of 24, 48 and 96; 22 gains and a voice.
    """

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Linear(42, 24)
        self.voice = nn.GRU(24, 24, batch_first=True)
        self.noise = nn.GRU(24 + 24 + 42, 48, batch_first=True)
        self.gains = nn.GRU(24 + 48 + 42, 96, batch_first=True)
        self.head = nn.ModuleList([nn.Linear(96, 22), nn.Linear(24, 1)])

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return gains [N, T, 22] and voices [N, T, 1] of frames [N, T, 42]."""
        before = self.before(frames).tanh()
        voice = self.voice(before)[0]
        noise = self.noise(torch.cat([before, voice, frames], -1))[0].relu()
        gains = self.gains(torch.cat([voice, noise, frames], -1))[0]
        return self.head[0](gains).sigmoid(), self.head[1](voice).sigmoid()


class EcgBlock(nn.Module):
    """Two long kernels, of which the second strides, beside a pooled and projected shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv1d(inputs, outputs, 17, padding=8, bias=False), nn.BatchNorm1d(outputs)
        )
        self.second = nn.Conv1d(outputs, outputs, 17, 4, 8, bias=False)
        self.shortcut = nn.Sequential(nn.MaxPool1d(4), nn.Conv1d(inputs, outputs, 1, bias=False))
        self.norm = nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.shortcut(x) + self.second(self.first(x).relu())).relu()


def ecg() -> nn.Module:
    """A residual network that reads electrocardiograms: Ribeiro et al. 2020 (arXiv 1904.01949).

    Figures: 4096 samples of 12 leads; 64, then 128, 196, 256, 320 of 17/4; 6 findings.
    """
    widths = (64, 128, 196, 256, 320)
    body = nn.Sequential(
        *(nn.Conv1d(12, 64, 17, padding=8, bias=False), nn.BatchNorm1d(64), nn.ReLU()),
        *(EcgBlock(before, width) for before, width in pairwise(widths)),
        nn.Flatten(),
    )
    return Headed(body, nn.Linear(320 * 16, 6))


class Gated(nn.Module):
    """A layer of WaveNet: a dilated causal pair of kernels, one of which gates the other."""

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.pad = nn.ZeroPad1d((dilation, 0))
        self.conv = nn.Conv1d(64, 128, 2, dilation=dilation)
        self.project = nn.Conv1d(64, 64, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        value, gate = self.conv(self.pad(x)).chunk(2, 1)
        y = self.project(value.tanh() * gate.sigmoid())
        return x + y, y


class WaveNet(nn.Module):
    """WaveNet: van den Oord et al. 2016 (arXiv 1609.03499), sections 2.1 to 2.4, of 64 channels.

    Figures: kernels of 2, dilations 1, 2, ... 512 once (a publication's stack of several), 256
    levels; 2,000 samples, an eighth of a second of 16 kHz.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, 64, 1)
        self.layers = nn.ModuleList(Gated(2**number) for number in range(10))
        self.last, self.head = nn.Conv1d(64, 256, 1), nn.Conv1d(256, 256, 1)

    def forward(self, sound: Tensor) -> Tensor:
        """Return logits [N, 256, T] of sounds [N, 1, T]."""
        x = self.first(sound)
        total: Tensor | float = 0.0
        for layer in self.layers:
            x, skipped = layer(x)
            total = total + skipped
        return self.head(self.last(F.relu(total)).relu())


def residual_tcn() -> nn.Module:
    """TC-ResNet8, which spots key words: Choi et al. 2019 (arXiv 1904.03814), figure 2.

    Figures: 101 frames of 40 coefficients as channels; 16 of 3; blocks of two 9 wide kernels, the
    first of stride 2, of 24, 32, 48; 12 words.
    """

    def conv(inputs: int, outputs: int, kernel: int, stride: int) -> list[nn.Module]:
        layer = nn.Conv1d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        return [layer, nn.BatchNorm1d(outputs)]

    layers: list[nn.Module] = [nn.Conv1d(40, 16, 3, padding=1, bias=False)]
    before = 16
    for width in (24, 32, 48):
        body = nn.Sequential(*conv(before, width, 9, 2), nn.ReLU(), *conv(width, width, 9, 1))
        shortcut = nn.Sequential(*conv(before, width, 1, 2), nn.ReLU())
        layers += [Residual(body, shortcut), nn.ReLU()]
        before = width
    return Headed(nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten()), nn.Linear(48, 12))
