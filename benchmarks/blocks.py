"""What a pattern of zeros is worth to the compiler: engines of one network, cut in several ways.

    python benchmarks/blocks.py [--keep 0.1] [--threads 1]

Two networks of random weights: linear layers alone, and the convnet. Of each, the engine of every
pattern, all layers at the same keep ratio, is timed against that of single weights, and against
dense, in interleaved rounds: the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import torch
from torch import Tensor, nn

from secateur import Budget, Engine, compile, machine, nets, prunable, prune

PATTERNS = ("weight", "1x4", "4x1", "16x1")
ROUNDS = 31


def networks() -> dict[str, tuple[nn.Module, Tensor]]:
    torch.manual_seed(0)
    linear = nn.Sequential(
        nn.Linear(1024, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1000)
    )
    return {
        "linear layers": (linear.eval(), torch.randn(1, 1024)),
        "convnet": (nets.build("convnet").eval(), torch.randn(1, 3, 32, 32)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--keep", type=float, default=0.1)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    print(f"{datetime.now(UTC):%Y-%m-%d}, {machine.describe()}, keep {given.keep:g}, ", end="")
    print(f"{given.threads} thread(s)")
    for name, (model, example) in networks().items():
        engines = {"dense": compile(model, example, threads=given.threads)}
        for pattern in PATTERNS:
            budget = Budget(given.keep, scope="layer", pattern=pattern)
            pruned, _ = prune(model, budget, plan=prunable(model, include_first=True))
            engines[pattern] = compile(pruned, example, threads=given.threads)
        for batch in (1, 16):
            x = np.random.default_rng(0).standard_normal((batch, *example.shape[1:]), np.float32)
            times = _rounds(list(engines.values()), x)
            base = times[list(engines).index("weight")]
            for pattern, own in zip(engines, times, strict=True):
                ratio = statistics.median(a / b for a, b in zip(base, own, strict=True))
                print(
                    f"{name}, batch {batch}, {pattern}: {statistics.median(own) * 1e3:.3f} ms, "
                    f"{ratio:.2f} times as fast as weight"
                )
    return 0


def _rounds(engines: Sequence[Engine], x: np.ndarray) -> list[list[float]]:
    """Return seconds of a call of every engine, round by round."""
    times: list[list[float]] = [[] for _ in engines]
    for _ in range(ROUNDS):
        for engine, own in zip(engines, times, strict=True):
            engine(x)
            start = time.perf_counter()
            for _ in range(5):
                engine(x)
            own.append((time.perf_counter() - start) / 5)
    return times


if __name__ == "__main__":
    raise SystemExit(main())
