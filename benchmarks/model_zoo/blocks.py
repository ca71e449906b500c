"""Blocks of classic and recent convolutional networks, written plainly."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv(
    inputs: int, outputs: int, kernel: int | tuple[int, int] = 3, stride: int = 1, **more: int
) -> nn.Module:
    """Return convolution, batch norm, ReLU, padded to keep the size."""
    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
    dilation = more.get("dilation", 1)
    padding = tuple(dilation * (side // 2) for side in sides)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, sides, stride, padding, bias=False, **more),  # type: ignore[arg-type]
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def headed(body: nn.Module, width: int) -> nn.Sequential:
    """Return a body with pooling and a linear layer."""
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 8))


class Sum(nn.Module):
    """A branch beside a shortcut, ReLU or nothing after the sum."""

    def __init__(
        self, branch: nn.Module, shortcut: nn.Module | None = None, relu: bool = True
    ) -> None:
        super().__init__()
        self.branch, self.shortcut, self.relu = branch, shortcut or nn.Identity(), relu

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.shortcut(x) + self.branch(x)
        return F.relu(y) if self.relu else y


class Beside(nn.Module):
    """Branches of one input, one after another along the channels."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class Grown(nn.Module):
    """What came before, and new channels beside it."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm, self.relu = nn.BatchNorm2d(inputs), nn.ReLU()
        self.squeeze, self.grow = (
            conv(inputs, 2 * growth, 1),
            nn.Conv2d(2 * growth, growth, 3, 1, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.grow(self.squeeze(self.relu(self.norm(x))))], 1)


class Weighed(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(width, hidden, 1), nn.Conv2d(hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))


def inverted(inputs: int, hidden: int, outputs: int, weigh: bool = False) -> nn.Module:
    """Return an inverted residual: widened, depthwise, narrowed."""
    branch = nn.Sequential(
        *(conv(inputs, hidden, 1), conv(hidden, hidden, 3, groups=hidden)),
        *([Weighed(hidden, 8)] if weigh else []),
        *(nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)),
    )
    return Sum(branch, relu=False) if inputs == outputs else branch


class Halves(nn.Module):
    """One half passes by, the other goes through a branch; then channels are shuffled."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.branch = nn.Sequential(
            conv(half, half, 1),
            *(nn.Conv2d(half, half, 3, 1, 1, groups=half), nn.BatchNorm2d(half)),
            conv(half, half, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        y = torch.cat([left, self.branch(right)], 1)
        n, c, h, w = y.shape
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class Response(nn.Module):
    """Global response normalisation over a map [N, H, W, C] (ConvNeXt V2, arXiv 2301.00808)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(width))
        self.shift = nn.Parameter(torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        norm = x.norm(dim=(1, 2), keepdim=True)
        return self.scale * (x * norm / (norm.mean(-1, keepdim=True) + 1e-6)) + self.shift + x


class ConvNext(nn.Module):
    """Depthwise 7×7, a layer norm, two linear layers; in the second version a response norm."""

    def __init__(self, width: int, second: bool = False) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm, self.up = nn.LayerNorm(width), nn.Linear(width, 4 * width)
        self.response = Response(4 * width) if second else nn.Identity()
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.down(self.response(F.gelu(self.up(y))))
        return x + y.permute(0, 3, 1, 2)


class Partial(nn.Module):
    """A convolution of some channels only, written over them (FasterNet, arXiv 2303.03667)."""

    def __init__(self, width: int, assign: bool) -> None:
        super().__init__()
        self.part, self.assign = width // 4, assign
        self.conv = nn.Conv2d(self.part, self.part, 3, 1, 1, bias=False)
        self.up, self.down = conv(width, 2 * width, 1), nn.Conv2d(2 * width, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.assign:
            y = x.clone()
            y[:, : self.part] = self.conv(y[:, : self.part].clone())
        else:
            some, rest = x.split([self.part, x.shape[1] - self.part], 1)
            y = torch.cat([self.conv(some), rest], 1)
        return x + self.down(self.up(y))


class Strips(nn.Module):
    """Channels in four parts: as they are, square, wide and tall (InceptionNeXt)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        part = width // 4
        self.sizes = (width - 3 * part, part, part, part)
        self.square = nn.Conv2d(part, part, 3, padding=1, groups=part)
        self.wide = nn.Conv2d(part, part, (1, 7), padding=(0, 3), groups=part)
        self.tall = nn.Conv2d(part, part, (7, 1), padding=(3, 0), groups=part)
        self.norm = nn.BatchNorm2d(width)
        self.up, self.down = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        same, a, b, c = x.split(self.sizes, 1)
        y = torch.cat([same, self.square(a), self.wide(b), self.tall(c)], 1)
        return x + self.down(F.gelu(self.up(self.norm(y))))


class Pooled(nn.Module):
    """Attention whose queries, keys and values are pooled maps (MViTv2, arXiv 2112.01526)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.width = heads, width // heads
        self.norm, self.qkv = nn.LayerNorm(width), nn.Linear(width, 3 * width)
        size = self.width
        self.pools = nn.ModuleList(
            nn.Conv2d(size, size, 3, stride, 1, groups=size, bias=False) for stride in (1, 2, 2)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(3))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, h, w, _ = x.shape
        parts = self.qkv(self.norm(x)).reshape(n, h * w, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = (self.pooled(part, at, h, w) for at, part in enumerate(parts.unbind(0)))
        y = (q * self.width**-0.5 @ k.transpose(-2, -1)).softmax(-1) @ v + q
        return x + self.proj(y.transpose(1, 2).reshape(n, h, w, -1))

    def pooled(self, x: Tensor, at: int, h: int, w: int) -> Tensor:
        n, heads, _, size = x.shape
        maps = x.reshape(n * heads, h, w, size).permute(0, 3, 1, 2)
        y = self.pools[at](maps).reshape(n, heads, size, -1).transpose(2, 3)
        normed: Tensor = self.norms[at](y)
        return normed


class LastAxis(nn.Module):
    """Runs a module on a map [N, H, W, C]."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.module(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return y
