"""Networks over tokens: encoders, decoders, recurrences and convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks import VOCABULARY, Bert, Layer, ViT
from suite_nets.layers import Headed


def minilm() -> nn.Module:
    """MiniLM-L6-H384: Wang et al. 2020 (arXiv 2002.10957), less deep.

    Figures: 128 tokens, width 384, 12 heads, 1536 within; 3 layers rather than 6, 1,000 words.
    """
    return Bert(384, 3, 12)


def bert_tiny() -> nn.Module:
    """BERT-tiny: Turc et al. 2019 (arXiv 1908.08962), 2 layers of 128.

    Figures: 128 tokens, width 128, 2 heads, 512 within, 2 layers; 1,000 words.
    """
    return Bert(128, 2, 2)


def vit_tiny() -> nn.Module:
    """DeiT-Ti: Touvron et al. 2020 (arXiv 2012.12877), table 1, less deep.

    Figures: 224 x 224, patches of 16, width 192, 3 heads; 6 layers rather than 12, 10 classes.
    """
    return ViT(192, 6, 3, patch=16, side=224)


class Gpt(nn.Module):
    """GPT-2 small's layers: Radford et al. 2019, section 2.3, without the words of its outputs.

    Figures: 64 tokens, width 768, 12 heads, 3072 within, a causal mask; 2 layers rather than 12.
    """

    def __init__(self, tokens: int = 64) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, 768)
        self.places = nn.Parameter(torch.randn(1, tokens, 768) * 0.1, requires_grad=False)
        self.layers = nn.ModuleList(Layer(768, 12, norm_first=True) for _ in range(2))
        self.register_buffer("later", torch.full((tokens, tokens), -10000.0).triu(1))
        self.norm, self.head = nn.LayerNorm(768), nn.Linear(768, 2)

    def forward(self, ids: Tensor) -> Tensor:
        """Return what a reward model says of each token [N, T, 2] of token ids [N, T]."""
        x = self.words(ids) + self.places
        for layer in self.layers:
            x = layer(x, self.later)
        return self.head(self.norm(x))


class RmsNorm(nn.Module):
    """A norm that only scales (Zhang and Sennrich 2019)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width).uniform_(0.5, 1.5))

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt() * self.weight


class Reader(nn.Module):
    """Attention of some tokens to others; its layers have no biases.

    Args:
        width: of a token.
        heads: of queries.
        size: of a head.
        shared: how many heads of queries read the same keys.
        scale: of the logits.
    """

    def __init__(
        self, width: int, heads: int, size: int, shared: int = 1, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.size, self.shared, self.scale = size, shared, scale
        self.q = nn.Linear(width, heads * size, bias=False)
        self.k = nn.Linear(width, heads // shared * size, bias=False)
        self.v = nn.Linear(width, heads // shared * size, bias=False)
        self.o = nn.Linear(heads * size, width, bias=False)

    def split(self, x: Tensor) -> Tensor:
        """Map [N, T, heads * size] to [N, heads, T, size]."""
        return x.view(x.shape[0], x.shape[1], -1, self.size).transpose(1, 2)

    def forward(
        self, x: Tensor, read: Tensor, bias: Tensor | None = None, turn: Tensor | None = None
    ) -> Tensor:
        """Read tokens, with a bias of the logits, or with queries and keys turned by angles."""
        q, k, v = self.split(self.q(x)), self.split(self.k(read)), self.split(self.v(read))
        if turn is not None:
            q, k = _turned(q, turn), _turned(k, turn)
        if self.shared > 1:
            k, v = k.repeat_interleave(self.shared, 1), v.repeat_interleave(self.shared, 1)
        logits = q @ k.transpose(2, 3) * self.scale
        if bias is not None:
            logits = logits + bias
        return self.o((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))


def _turned(x: Tensor, angles: Tensor) -> Tensor:
    left, right = x.chunk(2, -1)
    return x * angles.cos() + torch.cat([-right, left], -1) * angles.sin()


class T5Layer(nn.Module):
    """A decoder layer: reads what came before, then the encoder's tokens, then each for itself."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(RmsNorm(512) for _ in range(3))
        self.before, self.across = Reader(512, 8, 64), Reader(512, 8, 64)
        self.up = nn.Linear(512, 2048, bias=False)
        self.down = nn.Linear(2048, 512, bias=False)

    def forward(self, x: Tensor, encoded: Tensor, bias: Tensor) -> Tensor:
        y = self.norms[0](x)
        x = x + self.before(y, y, bias)
        x = x + self.across(self.norms[1](x), encoded)
        return x + self.down(self.up(self.norms[2](x)).relu())


class T5Decoder(nn.Module):
    """T5-small's decoder: Raffel et al. 2019 (arXiv 1910.10683), section 2.1, less deep.

    Figures: 32 tokens that read 64, width 512, 8 heads of 64, 2048 within; 2 layers rather than 6,
    1,000 words; a learned bias by distance, which is given whole.
    """

    def __init__(self, tokens: int = 32) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, 512)
        self.layers = nn.ModuleList(T5Layer() for _ in range(2))
        bias = torch.randn(8, tokens, tokens) + torch.full((tokens, tokens), -10000.0).triu(1)
        self.register_buffer("bias", bias)
        self.norm, self.head = RmsNorm(512), nn.Linear(512, VOCABULARY, bias=False)

    def forward(self, ids: Tensor, encoded: Tensor) -> Tensor:
        """Return logits [N, 32, 1000] of ids [N, 32] and the encoder's tokens [N, 64, 512]."""
        x = self.words(ids)
        for layer in self.layers:
            x = layer(x, encoded, self.bias)
        return self.head(self.norm(x))


class LlamaLayer(nn.Module):
    """A decoder layer with turned queries and keys, and a gate in the layer within."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = RmsNorm(576), RmsNorm(576)
        self.reader = Reader(576, 9, 64, shared=3, scale=1 / 8)
        self.gate, self.up = (nn.Linear(576, 1536, bias=False) for _ in range(2))
        self.down = nn.Linear(1536, 576, bias=False)

    def forward(self, x: Tensor, bias: Tensor, turn: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.reader(y, y, bias, turn)
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class SmolLm(nn.Module):
    """SmolLM-135M's layers: Allal et al. 2024, after Touvron et al. 2023 (arXiv 2302.13971).

    Figures: 64 tokens, width 576, 9 heads of 64 with 3 of keys, 1536 within, rotary places; 2
    layers rather than 30, 1,000 words.
    """

    def __init__(self, tokens: int = 64) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, 576)
        self.layers = nn.ModuleList(LlamaLayer() for _ in range(2))
        speeds = 10000.0 ** (-torch.arange(0, 64, 2) / 64)
        angles = torch.arange(tokens)[:, None] * speeds
        self.register_buffer("turn", torch.cat([angles, angles], -1))
        self.register_buffer("later", torch.full((tokens, tokens), -10000.0).triu(1))
        self.norm, self.head = RmsNorm(576), nn.Linear(576, VOCABULARY, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits [N, 64, 1000] of token ids [N, 64]."""
        x = self.words(ids)
        for layer in self.layers:
            x = layer(x, self.later, self.turn)
        return self.head(self.norm(x))


class Whisper(nn.Module):
    """Whisper-tiny's encoder: Radford et al. 2022 (arXiv 2212.04356), table 1, less deep.

    Figures: 80 bands, width 384, 6 heads, 1536 within; 10 s of sound rather than 30 (500 places),
    2 layers rather than 4.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(80, 384, 3, padding=1)
        self.conv2 = nn.Conv1d(384, 384, 3, 2, 1)
        self.places = nn.Parameter(torch.randn(500, 384) * 0.1, requires_grad=False)
        self.layers = nn.ModuleList(Layer(384, 6, norm_first=True) for _ in range(2))
        self.head = nn.LayerNorm(384)

    def forward(self, bands: Tensor) -> Tensor:
        """Return tokens [N, 500, 384] of bands [N, 80, 1000]."""
        x = F.gelu(self.conv2(F.gelu(self.conv1(bands)))).transpose(1, 2) + self.places
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class LstmModel(nn.Module):
    """A word-level language model: Zaremba et al. 2014 (arXiv 1409.2329), the medium one.

    Figures: 35 words, two LSTM of 650; 10,000 words, of which the last one's are given.
    """

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10000, 650)
        self.lstm = nn.LSTM(650, 650, 2, batch_first=True)
        self.head = nn.Linear(650, 10000)

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits [N, 10000] of word ids [N, 35]."""
        return self.head(self.lstm(self.words(ids))[0][:, -1])


class Branches(nn.Module):
    """Kernels of several widths over embedded words, each one's maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, 300)
        self.convs = nn.ModuleList(nn.Conv1d(300, 100, width) for width in (3, 4, 5))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids).transpose(1, 2)
        return torch.cat([conv(x).relu().amax(2) for conv in self.convs], 1)


def text_cnn() -> nn.Module:
    """A sentence classifier: Kim 2014 (arXiv 1408.5882), section 3.1.

    Figures: 56 words of 300 numbers; 100 each of 3, 4, 5 words; 2 classes.
    """
    return Headed(Branches(), nn.Linear(300, 2))
