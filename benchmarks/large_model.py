"""Time and memory of pruning a transformer of a billion weights on a CPU.

    python benchmarks/large_model.py [--layers 22] [--width 2048] [--criterion magnitude]

A Llama-like decoder with random weights in bf16 is cut in place to a tenth of its weights by one
call of `secateur.prune`. Peak memory is the process's highest resident set less what it held
before there was a model, as a multiple of the model's bytes. wanda and obs look at 32 sequences,
with scope "layer", and stream. Exit status 1: a count was not exact, or a goal was missed.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from datetime import UTC, datetime

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur import Budget, Calibration, machine, prune

SECONDS, TIMES = 180.0, 1.6
KEEP = 0.1
VOCABULARY = 8192
SEQUENCES, LENGTH = 32, 16


class Block(nn.Module):
    """Attention with grouped queries, and a gated MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width // 4, bias=False)
        self.value = nn.Linear(width, width // 4, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(width, 11 * width // 4, bias=False)
        self.up = nn.Linear(width, 11 * width // 4, bias=False)
        self.down = nn.Linear(11 * width // 4, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        q, k, v = (
            layer(y).unflatten(-1, (-1, self.size)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        y = self.norm2(x)
        out: Tensor = x + self.down(F.silu(self.gate(y)) * self.up(y))
        return out


class Decoder(nn.Module):
    """Token ids [N, T] to logits [N, T, vocabulary]."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.blocks = nn.Sequential(*(Block(width, width // 128) for _ in range(layers)))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.blocks(self.embedding(tokens))))
        return out


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--criterion", choices=["magnitude", "wanda", "obs"], default="magnitude")
    given = parser.parse_args()

    torch.manual_seed(0)
    before = _peak()
    torch.set_default_dtype(torch.bfloat16)
    model = Decoder(given.layers, given.width).eval()
    torch.set_default_dtype(torch.float32)
    size = sum(p.numel() for p in model.parameters())
    budget, data = KEEP, None
    if given.criterion != "magnitude":
        tokens = torch.randint(VOCABULARY, (SEQUENCES, LENGTH + 1))
        inputs, targets = tokens[:, :-1].split(4), tokens[:, 1:].split(4)
        budget, data = Budget(KEEP, scope="layer"), Calibration(inputs, targets, loss)
    start = time.perf_counter()
    pruned, result = prune(model, budget, criterion=given.criterion, data=data, in_place=True)
    seconds = time.perf_counter() - start
    times = (_peak() - before) / (2 * size)
    kept = sum(int(torch.count_nonzero(pruned.get_parameter(name))) for name in result.masks)
    exact = kept == round(KEEP * result.masks.total)
    here = machine.describe()
    print(f"{datetime.now(UTC):%Y-%m-%d}, {here['cpu']}, {here['cores']} cores")
    print(f"{size:,} parameters in bf16, {result.masks.total:,} prunable, {given.criterion}")
    goals = given.criterion == "magnitude"
    wanted = f" (goals: {SECONDS:.0f} s, {TIMES} x)" if goals else ""
    print(f"{seconds:.0f} s, peak {times:.2f} x the model{wanted}")
    print(f"kept {kept:,}: {'exact' if exact else 'NOT EXACT'}")
    met = not goals or (seconds <= SECONDS and times <= TIMES)
    return 0 if exact and met else 1


def _peak() -> int:
    """Return the highest resident set of this process so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    raise SystemExit(main())
