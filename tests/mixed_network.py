"""One network with kernels of many kinds, for machines on which not all tests can run."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Mixed(nn.Module):
    """Images [n, 3, 32, 32] to [n, 10]: convolutions, pools, attention, recurrence, views."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 24, 4, stride=4)
        self.depth = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.up = nn.ConvTranspose2d(24, 12, 2, stride=2)
        self.norm = nn.LayerNorm(24)
        self.qkv = nn.Linear(24, 72)
        self.out = nn.Linear(24, 24)
        self.lstm = nn.LSTM(24, 16, batch_first=True)
        self.gru = nn.GRU(24, 16, batch_first=True)
        self.head = nn.Linear(80, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = functional.leaky_relu(self.patches(images))
        x = functional.pad(self.depth(x), (1, 0, 2, 1))[:, :, 1:9, :8]
        large = functional.interpolate(x, scale_factor=2, mode="bilinear")[:, :12]
        x = torch.cat([self.up(x), large], dim=1)
        x = functional.avg_pool2d(functional.hardswish(x), 2)
        x = x + functional.max_pool2d(x, 3, stride=1, padding=1)
        t = self.norm(x.flatten(2).transpose(1, 2))
        q, k, v = self.qkv(t).chunk(3, dim=-1)
        t = t + functional.gelu(self.out(torch.softmax(q @ k.transpose(1, 2) / 5, dim=-1) @ v))
        first, _ = self.lstm(t[:, :10])
        second, _ = self.gru(t[:, ::7])
        ends = torch.cat([first[:, -1], second[:, -1], t.mean(1), t.amax(1)], dim=1)
        return self.head(torch.tanh(ends))
