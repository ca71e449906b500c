"""The networks that engines are measured on, pruned, as ONNX files with random weights.

    python benchmarks/networks.py FOLDER [--nets resnet18,vit] [--sparsities 0.9] [--scope layer]

Only speed is measured on them, and speed does not depend on what a network has learnt. Weights
are cut by magnitude, exactly; the first convolution or embedding and the last linear layer stay
dense (the multilayer perceptron's first linear layer is cut too: it is most of the network). Norms
get random scales and shifts, and batch norms the statistics of random images, so that outputs are
neither all equal nor infinite. The batch is a dynamic axis. A file that is there already is kept.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur import Budget, nets, prunable, select
from secateur.pruning.criteria import find
from secateur.pruning.selecting.budget import Scope

OPSET = 17
IMAGE = (3, 32, 32)
TOKENS, VOCABULARY = 128, 1000
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
NORMS = (*BATCH_NORMS, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d)


class Attention(nn.Module):
    """Multi-head self-attention of plain linear layers and matrix products."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def split(self, x: Tensor) -> Tensor:
        return x.reshape(-1, x.shape[1], self.heads, self.size).transpose(1, 2)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Map [N, T, width] to the same; `bias` [N, 1, 1, T] is added to the logits."""
        query, key, value = (self.split(f(x)) for f in (self.query, self.key, self.value))
        logits = query @ key.transpose(2, 3) / math.sqrt(self.size)
        if bias is not None:
            logits = logits + bias
        mixed = logits.softmax(-1) @ value
        return self.out(mixed.transpose(1, 2).reshape(-1, x.shape[1], self.heads * self.size))


class Layer(nn.Module):
    """One encoder layer: norms before (ViT) or after (BERT) its two halves."""

    def __init__(self, width: int, heads: int, *, norm_first: bool) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Map [N, T, width] to the same."""
        if self.norm_first:
            x = x + self.attention(self.norm1(x), bias)
            return x + self.down(F.gelu(self.up(self.norm2(x))))
        x = self.norm1(x + self.attention(x, bias))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class ViT(nn.Module):
    """An encoder over patches of a square image, and a class token; ViT-Tiny's width and depth."""

    def __init__(
        self, width: int = 192, depth: int = 12, heads: int = 3, patch: int = 4, side: int = 32
    ) -> None:
        super().__init__()
        tokens = (side // patch) ** 2 + 1
        self.patches = nn.Conv2d(IMAGE[0], width, patch, stride=patch)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.02, requires_grad=False)
        self.places = nn.Parameter(torch.randn(1, tokens, width) * 0.02, requires_grad=False)
        self.layers = nn.ModuleList(Layer(width, heads, norm_first=True) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, 10] of images [N, 3, side, side]."""
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.places
        for layer in self.layers:
            x = layer(x)
        return self.linear(self.norm(x)[:, 0])


class Bert(nn.Module):
    """A small BERT-like encoder: token ids and a mask in, two logits of the first token out."""

    def __init__(self, width: int = 256, depth: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, width)
        self.places = nn.Parameter(torch.randn(1, TOKENS, width) * 0.1, requires_grad=False)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(Layer(width, heads, norm_first=False) for _ in range(depth))
        self.pooler = nn.Linear(width, width)
        self.linear = nn.Linear(width, 2)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return logits [N, 2] of token ids and a mask of ones and zeros, both int64 [N, 128]."""
        bias = (1 - mask[:, None, None, :].float()) * -10000.0
        x = self.norm(self.words(ids) + self.places)
        for layer in self.layers:
            x = layer(x, bias)
        return self.linear(torch.tanh(self.pooler(x[:, 0])))


class Mlp(nn.Sequential):
    """Three linear layers with ReLU between, on flat images."""

    def __init__(self) -> None:
        super().__init__(
            nn.Linear(3072, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10)
        )


def _images(count: int) -> tuple[Tensor, ...]:
    return (torch.randn(count, *IMAGE),)


def _flat_images(count: int) -> tuple[Tensor, ...]:
    return (torch.randn(count, math.prod(IMAGE)),)


def texts(count: int) -> tuple[Tensor, ...]:
    """Return token ids and a mask, both int64 [count, 128]; every second text is half as long."""
    mask = torch.ones(count, TOKENS, dtype=torch.int64)
    mask[1::2, TOKENS // 2 :] = 0
    return torch.randint(0, VOCABULARY, (count, TOKENS)), mask


@dataclass(frozen=True)
class Network:
    """One network: how to build it, what it reads, and which of its layers are never cut."""

    build: Callable[[], nn.Module]
    inputs: Callable[[int], tuple[Tensor, ...]] = _images
    names: tuple[str, ...] = ("images",)
    include_first: bool = False
    last: str = "linear.weight"


NETWORKS = {
    "resnet18": Network(lambda: nets.build("resnet18")),
    "vgg16": Network(lambda: nets.build("vgg16")),
    "resnet20": Network(lambda: nets.build("resnet20")),
    "resnet56": Network(lambda: nets.build("resnet56")),
    "vit": Network(ViT),
    "bert": Network(Bert, texts, ("ids", "mask")),
    "mlp": Network(Mlp, _flat_images, include_first=True, last="4.weight"),
}
"""Every network of the benchmark, by name."""


def onnx_file(
    name: str,
    sparsity: float,
    folder: Path,
    *,
    scope: Scope = "layer",
    pattern: str = "weight",
    seed: int = 0,
) -> Path:
    """Return the ONNX file of a network at a sparsity, written into `folder` if it is not there.

    Args:
        name: a key of `NETWORKS`.
        sparsity: fraction of the prunable weights that are zero, in [0, 1).
        folder: made if need be.
        scope: "layer" cuts every layer to the same sparsity, "global" ranks all weights together.
        pattern: what is cut, "weight" or blocks such as "dot4".
        seed: of weights and of the images that batch norms see.
    """
    shape = "" if pattern == "weight" else f"-{pattern}"
    path = folder / f"{name}-{scope}-{sparsity:g}-{seed}{shape}.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        made = module(name, sparsity, scope=scope, pattern=pattern, seed=seed)
        _export(made, NETWORKS[name], partial)
        partial.replace(path)
    return path


def module(
    name: str,
    sparsity: float,
    *,
    scope: Scope = "layer",
    pattern: str = "weight",
    seed: int = 0,
) -> nn.Module:
    """Return the network itself, pruned, in evaluation mode."""
    network = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = network.build()
        first = network.include_first
        cut(model, sparsity, (network.last,), scope=scope, pattern=pattern, include_first=first)
        settle(model, network.inputs)
    return model.eval()


def cut(
    model: nn.Module,
    sparsity: float,
    exclude: Sequence[str],
    *,
    scope: Scope = "layer",
    pattern: str = "weight",
    include_first: bool = False,
) -> None:
    """Set the smallest weights to zero, exactly so many; `exclude` has globs of what is not cut."""
    names = prunable(model, include_first=include_first, exclude=exclude).names
    budget = Budget(1 - sparsity, scope, pattern=pattern, floor=0)
    masks = select(find("magnitude").scores(model, names), budget)
    assert pattern != "weight" or masks.kept == budget.count(masks.total)
    masks.apply(model)


@torch.no_grad()
def settle(
    model: nn.Module,
    inputs: Callable[[int], tuple[Tensor, ...]],
    *,
    count: int = 32,
    batches: int = 4,
) -> None:
    """Draw the norms' scales and shifts; give batch norms the statistics of random inputs."""
    for part in model.modules():
        if isinstance(part, NORMS):
            part.weight.uniform_(0.5, 1.5)
            part.bias.normal_(0, 0.1)
        if isinstance(part, BATCH_NORMS):
            part.momentum = None  # a plain average over the batches below
    if any(isinstance(part, BATCH_NORMS) for part in model.modules()):
        model.train()
        for _ in range(batches):
            model(*inputs(count))


def _export(model: nn.Module, network: Network, path: Path) -> None:
    with warnings.catch_warnings():
        # The older exporter is deprecated, but its graphs are the ones met in the wild.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            network.inputs(2),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(network.names),
            output_names=["logits"],
            dynamic_axes={name: {0: "batch"} for name in (*network.names, "logits")},
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--nets", default=",".join(NETWORKS))
    parser.add_argument("--sparsities", default="0,0.9")
    parser.add_argument("--scope", choices=["layer", "global"], default="layer")
    given = parser.parse_args(arguments)
    for name in given.nets.split(","):
        for sparsity in given.sparsities.split(","):
            print(onnx_file(name, float(sparsity), given.folder, scope=given.scope))


if __name__ == "__main__":
    main()
