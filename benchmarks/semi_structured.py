"""2:4 linear layers on an NVIDIA GPU: semi-structured against dense, medians of interleaved rounds.

python benchmarks/semi_structured.py

Needs a CUDA device of compute capability 8.0 or newer; without one it says so, exit status 2.
"""

from __future__ import annotations

import statistics
from datetime import UTC, datetime

import torch
from torch import nn

from secateur import machine, prune, to_semi_structured
from secateur.errors import UsageError

SHAPES = ((1024, 4096), (4096, 4096), (4096, 11008), (8192, 8192))
ROWS = (16, 256, 4096)
ROUNDS = 30


def main() -> int:
    if not torch.cuda.is_available():
        print("there is no CUDA device here, so nothing is measured")
        return 2
    print(f"{datetime.now(UTC):%Y-%m-%d}, {machine.describe()}, torch {torch.__version__}, bf16")
    for inputs, outputs in SHAPES:
        pruned, _ = prune(
            nn.Sequential(nn.Linear(inputs, outputs)), pattern="2:4", include_first=True
        )
        dense = pruned.to("cuda", torch.bfloat16).eval()
        try:
            sparse = to_semi_structured(dense).model
        except UsageError as error:
            print(f"{inputs} x {outputs}: {error}")
            continue
        for rows in ROWS:
            x = torch.randn(rows, inputs, device="cuda", dtype=torch.bfloat16)
            pairs = [(_milliseconds(dense, x), _milliseconds(sparse, x)) for _ in range(ROUNDS)]
            ratio = statistics.median(d / s for d, s in pairs)
            print(f"{inputs} x {outputs}, {rows} rows: {ratio:.2f} times as fast as dense")
    return 0


def _milliseconds(model: nn.Module, x: torch.Tensor) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with torch.inference_mode():
        model(x)
        start.record()
        for _ in range(10):
            model(x)
        end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 10


if __name__ == "__main__":
    raise SystemExit(main())
