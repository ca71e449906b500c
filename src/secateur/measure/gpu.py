"""How long calls take on a CUDA device."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import torch

CALLS = 10
"""Calls between two looks at a GPU's clock."""


def cuda_milliseconds(
    calls: Sequence[Callable[[], object]], *, graph: bool = False, rounds: int = 7
) -> list[float]:
    """Return the median time of one call of each, in milliseconds, on the current CUDA device.

    Rounds are interleaved, so that what else the machine does meets all alike.

    Args:
        calls: what is called; no gradients are taken.
        graph: replay what the call launched (a CUDA graph), without Python and launching, as
            `torch.compile(mode="reduce-overhead")` runs a model.
        rounds: of `CALLS` calls each.
    """
    with torch.inference_mode():
        ready = [_captured(call) if graph else call for call in calls]
        return [
            statistics.median(times)
            for times in zip(
                *([_timed(call) for call in ready] for _ in range(rounds)), strict=True
            )
        ]


def _captured(call: Callable[[], object]) -> Callable[[], object]:
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # torch asks for a few calls before the capture
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def _timed(call: Callable[[], object]) -> float:
    start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    call()
    start.record()
    for _ in range(CALLS):
        call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / CALLS
