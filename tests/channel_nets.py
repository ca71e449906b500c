"""Small networks whose channels are coupled in the ways that occur in practice."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from channel_transformers import (
    GPT,
    MHA,
    Llama,
    Swin,
    ViT,
)
from secateur import nets
from secateur.nets.vgg import Vgg


class Net(NamedTuple):
    make: Callable[[], nn.Module]
    example: Callable[[], Tensor]


def images(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(2, *shape)


def tokens(vocabulary: int, length: int) -> Callable[[], Tensor]:
    return lambda: torch.randint(0, vocabulary, (2, length))


def conv_bn(
    inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1
) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    )


class Plain(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3, stride=2),
            nn.LeakyReLU(inplace=True),
            nn.MaxPool2d(2, padding=1),
            nn.Dropout(0.3),
            nn.Conv2d(12, 6, 1, bias=False),
            nn.Sigmoid(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(6, 10),
            nn.PReLU(10),
            nn.Linear(10, 4),
        )


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.a = conv_bn(inputs, outputs, stride=stride)
        self.b = conv_bn(outputs, outputs)
        self.down = conv_bn(inputs, outputs, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(F.relu(self.a(x)))
        y += self.down(x)
        return F.relu(y)


def resnet() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 8),
        Residual(8, 8, 1),
        Residual(8, 12, 2),
        Residual(12, 12, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 4),
    )


class Dense(nn.Module):
    """Every layer reads all that came before it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(6 + 4 * i) for i in range(3))
        self.layers = nn.ModuleList(nn.Conv2d(6 + 4 * i, 4, 3, padding=1) for i in range(3))
        self.join = nn.Conv2d(18, 8, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        seen = [self.stem(x)]
        for norm, layer in zip(self.norms, self.layers, strict=True):
            seen.append(layer(F.relu(norm(torch.cat(seen, 1)))))
        return self.head(F.silu(self.join(torch.cat(seen, 1))).mean((2, 3)))


class Inverted(nn.Module):
    """Inverted residual with depthwise convolution and squeeze-excite."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.expand = conv_bn(width, hidden, 1)
        self.depthwise = conv_bn(hidden, hidden, groups=hidden)
        self.reduce = nn.Conv2d(hidden, 4, 1)
        self.excite = nn.Conv2d(4, hidden, 1)
        self.project = conv_bn(hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.hardswish(self.depthwise(F.hardswish(self.expand(x))))
        gate = F.hardsigmoid(self.excite(F.relu(self.reduce(F.adaptive_avg_pool2d(y, 1)))))
        return x + self.project(y * gate)


def mobilenet() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 8),
        nn.ReLU6(),
        Inverted(8, 16),
        nn.Conv2d(8, 16, 3, padding=1, groups=8),  # two outputs of every channel
        nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 4),
    )


def resnext() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 12, 1),
        nn.ReLU(),
        nn.Conv2d(12, 24, 3, padding=1, groups=4),
        nn.ReLU(),
        nn.Conv2d(24, 8, 1),
        nn.Flatten(),
        nn.Linear(8 * 16, 4),
    )


class Shuffle(nn.Module):
    """Halves, grouped convolutions and a channel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.branch = nn.Sequential(conv_bn(8, 8, 1), nn.ReLU(), conv_bn(8, 8, groups=8))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.stem(x).chunk(2, 1)
        x = torch.cat([left, self.branch(right)], 1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(x.mean((2, 3)))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = conv_bn(1, 6)
        self.b = conv_bn(6, 10, stride=2)
        self.up = nn.ConvTranspose2d(10, 6, 2, stride=2)
        self.c = nn.Conv2d(12, 8, 3, padding=1)
        self.smooth = nn.Conv2d(10, 6, 1)
        self.d = nn.Conv2d(14, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.a(x))
        b = F.relu(self.b(a))
        c = F.relu(self.c(torch.cat([a, self.up(b)], 1)))
        wide = F.interpolate(self.smooth(b), scale_factor=2.0, mode="bilinear")
        return self.d(torch.cat([c, wide], 1))


def superres() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.PReLU(16),
        nn.Conv2d(16, 8 * 4, 3, padding=1),
        nn.PixelShuffle(2),
        nn.ReflectionPad2d(1),
        nn.Conv2d(8, 3, 3),
    )


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(6, 12, batch_first=True)
        self.chain = nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.chain(self.rnn(x)[0][:, -1])


class Reused(nn.Module):
    """One layer three times over, and one in two branches."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 12)
        self.again = nn.Linear(12, 12)
        self.side = nn.Linear(12, 8)
        self.last = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for _ in range(3):
            x = F.relu(self.again(x)) + x
        return self.last(torch.cat([self.side(x), self.side(-x)], -1))


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 24)
        self.b = nn.Linear(12, 16)
        self.c = nn.Linear(8, 4)
        self.scale = nn.Parameter(torch.randn(12))

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.a(x).chunk(2, -1)
        return self.c(F.glu(self.b(gate.sigmoid() * value * self.scale), -1))


def conv1d() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 8, 5, padding=2),
        nn.BatchNorm1d(8),
        nn.ELU(),
        nn.ConvTranspose1d(8, 8, 3, groups=8),
        nn.Conv1d(8, 6, 3),
        nn.AdaptiveMaxPool1d(2),
        nn.Flatten(),
        nn.Linear(12, 3),
    )


def conv3d() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(1, 6, 3),
        nn.BatchNorm3d(6, affine=False),
        nn.ReLU(),
        nn.AvgPool3d(2),
        nn.ConvTranspose3d(6, 8, 2),
        nn.InstanceNorm3d(8, affine=True),
        nn.Flatten(),
        nn.Linear(8 * 27, 3),
    )


def vgg16() -> nn.Module:
    """Return the built-in network, but narrow."""
    return Vgg((3, 32, 32), 10, stages=((4, 4), (6, 6), (8, 8, 8), (8, 8, 8), (8, 8, 8)))


NETS: dict[str, Net] = {
    "plain": Net(Plain, images(3, 12, 12)),
    "resnet": Net(resnet, images(3, 8, 8)),
    "dense": Net(Dense, images(3, 6, 6)),
    "mobilenet": Net(mobilenet, images(3, 6, 6)),
    "resnext": Net(resnext, images(3, 4, 4)),
    "shuffle": Net(Shuffle, images(3, 4, 4)),
    "unet": Net(UNet, images(1, 8, 8)),
    "superres": Net(superres, images(3, 5, 5)),
    "vit": Net(ViT, images(3, 8, 8)),
    "swin": Net(Swin, images(3, 4, 4)),
    "gpt": Net(GPT, tokens(30, 6)),
    "llama": Net(Llama, tokens(30, 6)),
    "mha": Net(MHA, images(5, 6)),
    "encoder": Net(lambda: nn.TransformerEncoderLayer(8, 2, 24, batch_first=True), images(5, 8)),
    "lstm": Net(Recurrent, images(5, 6)),
    "reused": Net(Reused, images(6)),
    "gated": Net(Gated, images(6)),
    "conv1d": Net(conv1d, images(2, 12)),
    "conv3d": Net(conv3d, images(1, 6, 6, 6)),
    "resnet20": Net(lambda: nets.build("resnet20"), images(3, 32, 32)),
    "vgg16": Net(vgg16, images(3, 32, 32)),
    "convnet": Net(lambda: nets.build("convnet-s"), images(3, 32, 32)),
    "mlp": Net(lambda: nets.build("mlp", input_shape=(1, 8, 8)), images(1, 8, 8)),
}


def made(name: str) -> tuple[nn.Module, Tensor]:
    """Return a network whose norms and running statistics are not at their start, and an input."""
    torch.manual_seed(0)
    model = NETS[name].make()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                for tensor in (*module.parameters(), module.running_mean):
                    if tensor is not None:
                        tensor.copy_(torch.randn_like(tensor))
                if module.running_var is not None:
                    module.running_var.copy_(torch.rand_like(module.running_var) + 0.5)
    return model.eval(), NETS[name].example()
