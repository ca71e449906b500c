"""Small networks of the kinds that people have, where tests/channel_nets.py has none already."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SqueezeExcite(nn.Module):
    """A residual block whose channels are weighed by what they hold on average."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.squeeze, self.excite = nn.Linear(width, 4), nn.Linear(4, width)
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = self.norm(self.conv(x))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3))))))
        return self.head(F.relu(x + y * gate[:, :, None, None]).mean((2, 3)))


class Windows(nn.Module):
    """Attention within windows of a map, shifted or not, with a bias by relative position."""

    def __init__(self, width: int, heads: int, side: int, window: int, shift: int) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.norm, self.qkv = nn.LayerNorm(width), nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.table = nn.Parameter(0.1 * torch.randn((2 * window - 1) ** 2, heads))
        steps = torch.arange(window)
        places = torch.stack(torch.meshgrid(steps, steps, indexing="ij")).flatten(1)
        apart = places[:, :, None] - places[:, None, :] + window - 1
        self.register_buffer("index", apart[0] * (2 * window - 1) + apart[1])
        # what the shift brings together from opposite edges must not attend to one another
        zones = torch.zeros(1, side, side, 1)
        zones[:, side - shift or side :] += 1
        zones[:, :, side - shift or side :] += 2
        zone = self.cut(zones).squeeze(-1)
        mask = torch.zeros(len(zone), window**2, window**2)
        self.register_buffer("mask", mask.masked_fill(zone[:, None] != zone[:, :, None], -100.0))

    def cut(self, x: Tensor) -> Tensor:
        """Return a map [N, H, W, C] as windows [N * windows, positions, C]."""
        n, h, w, c = x.shape
        k = self.window
        return x.view(n, h // k, k, w // k, k, c).transpose(2, 3).reshape(-1, k * k, c)

    def forward(self, x: Tensor) -> Tensor:
        n, h, w, c = x.shape
        k = self.window
        y = torch.roll(self.norm(x), (-self.shift, -self.shift), (1, 2))
        y = self.cut(y)
        qkv = self.qkv(y).view(-1, k * k, 3, self.heads, c // self.heads)
        q, key, v = qkv.permute(2, 0, 3, 1, 4)
        bias = self.table[self.index].permute(2, 0, 1)
        mask = self.mask.repeat(n, 1, 1)[:, None]
        scores = q @ key.transpose(-2, -1) * (c // self.heads) ** -0.5 + bias + mask
        y = self.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        y = y.view(n, h // k, w // k, k, k, c).transpose(2, 3).reshape(n, h, w, c)
        return x + torch.roll(y, (self.shift, self.shift), (1, 2))


class ShiftedWindows(nn.Module):
    """Patches, windows and shifted windows in turn, patches merged in between."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 2, 2)
        self.one, self.two = Windows(8, 2, 4, 2, 0), Windows(8, 2, 4, 2, 1)
        self.merge = nn.Linear(32, 16, bias=False)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(self.one(self.patches(x).permute(0, 2, 3, 1)))
        x = torch.cat([x[:, ::2, ::2], x[:, 1::2, ::2], x[:, ::2, 1::2], x[:, 1::2, 1::2]], -1)
        return self.head(self.norm(self.merge(x)).mean((1, 2)))


class Bert(nn.Module):
    """Tokens, places, segments; norms after the sums; padding is masked; a pooled first token."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.words = nn.Embedding(30, width, padding_idx=0)
        self.places, self.segments = nn.Embedding(8, width), nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width)
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 24), nn.Linear(24, width)
        self.pool, self.head = nn.Linear(width, width), nn.Linear(width, 3)

    def forward(self, ids: Tensor, segments: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.norm(self.words(ids) + self.places(places) + self.segments(segments))
        n, length, width = x.shape
        q, k, v = (f(x).view(n, length, 4, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        padding = (ids == 0)[:, None, None] * -1e4
        y = ((q @ k.transpose(-2, -1)) / 2 + padding).softmax(-1) @ v
        x = self.norm1(x + self.out(y.transpose(1, 2).reshape(n, length, width)))
        x = self.norm2(x + self.down(F.gelu(self.up(x))))
        return self.head(torch.tanh(self.pool(x[:, 0])))


class Gru(nn.Module):
    """Two layers, in both directions, over embedded tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 6)
        self.rnn = nn.GRU(6, 10, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(20, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.rnn(self.words(ids))[0].mean(1))


class Cells(nn.Module):
    """A recurrence written as a loop over cells."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru = nn.LSTMCell(5, 10), nn.GRUCell(10, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h, c, g = x.new_zeros(len(x), 10), x.new_zeros(len(x), 10), x.new_zeros(len(x), 8)
        for step in x.unbind(1):
            h, c = self.lstm(step, (h, c))
            g = self.gru(h, g)
        return self.head(g)


def autoencoder() -> nn.Module:
    """Return convolutions down, and transposed ones up again."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()),
        *(nn.ConvTranspose2d(16, 8, 3, 2, 1, output_padding=1), nn.ReLU()),
        *(nn.ConvTranspose2d(8, 8, 2, 2, groups=2), nn.ReLU(), nn.Conv2d(8, 1, 1), nn.Sigmoid()),
    )


class Tied(nn.Module):
    """A decoder that is its encoder transposed, two layers of one weight, one weight in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 12)
        self.encoder = nn.Linear(12, 6)
        self.shift = nn.Parameter(torch.zeros(12))
        self.left, self.right = nn.Linear(12, 12), nn.Linear(12, 12)
        self.right.weight = self.left.weight
        self.weights = nn.ParameterList([self.encoder.weight, torch.randn(12, 5)])

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = F.linear(F.relu(self.encoder(x)), self.encoder.weight.t(), self.shift)
        return (F.relu(self.left(y)) + self.right(x)) @ self.weights[1]


def nested() -> nn.Module:
    """Return sequences of sequences, an identity and a flattened end among them."""
    block = nn.Sequential(nn.Sequential(nn.Linear(12, 12)), nn.Sequential(nn.Tanh()), nn.Identity())
    head = nn.Sequential(nn.Sequential(nn.Sequential(nn.Linear(12, 8, bias=False), nn.ReLU())))
    return nn.Sequential(
        nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(16, 12))),
        nn.Sequential(block, nn.Sequential(nn.LayerNorm(12), nn.Dropout(0.1))),
        *(head, nn.Linear(8, 3)),
    )


class Mixer(nn.Module):
    """Layers that mix positions, then channels."""

    def __init__(self, positions: int = 16, width: int = 12) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 2, 2)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.across = nn.Sequential(nn.Linear(positions, 8), nn.GELU(), nn.Linear(8, positions))
        self.within = nn.Sequential(nn.Linear(width, 24), nn.GELU(), nn.Linear(24, width))
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.across(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return self.head((x + self.within(self.norm2(x))).mean(1))


class ConvNext(nn.Module):
    """Large depthwise kernels, channels last, and a scale of every layer."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 2, 2)
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.1))
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.down(F.gelu(self.up(y))) * self.scale
        return self.head((x + y.permute(0, 3, 1, 2)).mean((2, 3)))


def groupnorm() -> nn.Module:
    """Return convolutions between group and instance norms."""
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU()),
        *(nn.Conv2d(8, 12, 3, 2, 1, bias=False), nn.GroupNorm(12, 12), nn.SiLU()),
        *(nn.Conv2d(12, 8, 1), nn.InstanceNorm2d(8, affine=True), nn.Flatten()),
        nn.Linear(128, 4),
    )


class Bag(nn.Module):
    """The mean of embedded tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(40, 12, mode="mean")
        self.body, self.head = nn.Linear(12, 16), nn.Linear(16, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(F.relu(self.body(self.words(ids))))


class Experts(nn.Module):
    """Two experts; a router sends every token to the likelier one, and weighs its answer."""

    def __init__(self, width: int = 10) -> None:
        super().__init__()
        self.stem, self.router = nn.Linear(6, width), nn.Linear(width, 2, bias=False)
        self.up = nn.Parameter(0.3 * torch.randn(2, width, 16))
        self.down = nn.ModuleList(nn.Linear(16, width) for _ in range(2))
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x))
        share = self.router(x).softmax(-1)
        chosen = share.argmax(-1)
        answers = [
            layer(F.relu(x @ self.up[i])) * (chosen == i)[..., None] * share[..., i : i + 1]
            for i, layer in enumerate(self.down)
        ]
        return self.head(x + sum(answers))


class Detector(nn.Module):
    """A map of features is read by learned queries; classes and boxes come out."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem, self.project = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, width, 1)
        self.rows, self.columns = (nn.Parameter(torch.rand(8, width // 2)) for _ in range(2))
        self.queries = nn.Embedding(5, width)
        self.reader = nn.MultiheadAttention(width, 4, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.classes, self.boxes = nn.Linear(width, 4), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.project(F.relu(self.stem(x)))
        n, _, h, w = x.shape
        rows = self.rows[:h, None].expand(-1, w, -1)
        places = torch.cat([rows, self.columns[None, :w].expand(h, -1, -1)], -1).flatten(0, 1)
        memory = x.flatten(2).transpose(1, 2)
        queries = self.queries.weight[None].expand(n, -1, -1)
        read, _ = self.reader(queries, memory + places, memory, need_weights=False)
        y = self.norm(queries + read)
        return {"classes": self.classes(y), "boxes": self.boxes(y).sigmoid()}


class Seq2Seq(nn.Module):
    """torch's own encoder and decoder, two sequences in."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Transformer(8, 2, 1, 1, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.head(self.body(source, target))


class Pairs(nn.Module):
    """Two inputs that meet in a bilinear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(7, 6)
        self.meet, self.head = nn.Bilinear(8, 6, 9), nn.Linear(9, 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(F.relu(self.meet(F.relu(self.a(a)), F.relu(self.b(b)))))


def small() -> nn.Module:
    """Return the network that wrappers are put around."""
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.Conv2d(6, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3)),
    )


def normalised() -> nn.Module:
    """Return the small network with one layer's weight as a direction and a length."""
    model = small()
    nn.utils.parametrizations.weight_norm(model.get_submodule("3"))
    return model


class Adapter(nn.Module):
    """A frozen network beside whose layer a narrow one is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Linear(6, 12), nn.Linear(12, 12)
        self.requires_grad_(False)
        self.down, self.up = nn.Linear(12, 3, bias=False), nn.Linear(3, 12, bias=False)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head(F.relu(self.body(x) + self.up(self.down(x))))
