"""2:4 on an NVIDIA GPU: semi-structured against dense, medians of interleaved rounds, bf16.

    python benchmarks/semi_structured.py

First linear layers alone, by size and rows of inputs, then two decoder layers of Llama 2 7B's shape
(transformers, random weights), pruned by `secateur.prune(..., pattern="2:4")` on the GPU. Needs a
CUDA device of compute capability 8.0 or newer; without one it says so, exit status 2.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from secateur import machine, prunable, prune, to_semi_structured
from secateur.errors import UsageError
from secateur.measure.gpu import cuda_milliseconds

SHAPES = ((1024, 4096), (4096, 4096), (4096, 11008), (8192, 8192))
ROWS = (16, 256, 4096, 16384)


def main() -> int:
    if not torch.cuda.is_available():
        print("there is no CUDA device here, so nothing is measured")
        return 2
    print(f"{datetime.now(UTC):%Y-%m-%d}, {machine.describe()}, torch {torch.__version__}, bf16")
    print("dense ms / 2:4 ms = ratio; called as it is, then in a CUDA graph")
    for inputs, outputs in SHAPES:
        layer = nn.Sequential(nn.Linear(inputs, outputs)).to("cuda", torch.bfloat16).eval()
        dense, _ = prune(layer, pattern="2:4", plan=prunable(layer, include_first=True))
        try:
            sparse = to_semi_structured(dense).model
        except UsageError as error:
            print(f"{inputs} x {outputs}: {error}")
            continue
        for rows in ROWS:
            x = torch.randn(rows, inputs, device="cuda", dtype=torch.bfloat16)
            _report(f"{inputs} x {outputs}, {rows} rows", dense, sparse, x)
    _decoder()
    return 0


def _decoder() -> None:
    try:
        from transformers import LlamaConfig, LlamaModel
    except ImportError:
        print("decoder layers: not measured, transformers is not installed")
        return
    shape = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32}
    config = LlamaConfig(num_hidden_layers=2, vocab_size=1000, use_cache=False, **shape)
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = LlamaModel(config).to(torch.bfloat16).eval()
    tokens = {"input_ids": torch.randint(1000, (1, 128), device="cuda")}
    start = time.perf_counter()
    dense, result = prune(model, pattern="2:4", example=tokens)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    print(f"decoder layers: {result.masks.total / 1e6:.0f} M weights cut in {seconds:.1f} s")
    everywhere = to_semi_structured(dense)
    print(f"{len(everywhere.converted)} layers converted, {len(everywhere.left)} left")
    for batch, length in ((1, 1), (1, 512), (8, 1024), (32, 1024)):
        x = torch.randint(1000, (batch, length), device="cuda")
        what = f"decoder, {batch} x {length} tokens"
        _report(f"{what}, all converted", _last(dense), _last(everywhere.model), x)
        for graph in (False, True):
            chosen = to_semi_structured(dense, example={"input_ids": x}, graph=graph)
            how = "in a graph" if graph else "as it is"
            title = f"{what}, {len(chosen.converted)} layers converted that are faster {how}"
            _report(title, _last(dense), _last(chosen.model), x)


def _last(model: nn.Module) -> Callable[[Tensor], Tensor]:
    def call(tokens: Tensor) -> Any:
        return model(input_ids=tokens).last_hidden_state

    return call


@torch.inference_mode()
def _report(
    what: str, dense: Callable[[Tensor], Tensor], sparse: Callable[[Tensor], Tensor], x: Tensor
) -> None:
    wanted, got = dense(x).float(), sparse(x).float()
    difference = float((wanted - got).norm() / wanted.norm())
    runs, cells = (partial(dense, x), partial(sparse, x)), []
    for graph in (False, True):
        try:
            before, after = cuda_milliseconds(runs, graph=graph)
            cells.append(f"{before:.3f} / {after:.3f} = {before / after:.2f}")
        except RuntimeError as error:
            cells.append(f"not captured ({str(error).splitlines()[0][:60]})")
    print(f"{what}: {', graph '.join(cells)}; relative difference {difference:.1e}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
