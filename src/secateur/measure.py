"""The only place where a figure is taken."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import UsageError
from secateur.inputs import Inputs, first, run, size
from secateur.modes import evaluating

CALLS = 10
"""Calls between two looks at a GPU's clock."""


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Inputs, Any]],
    metric: Callable[[Tensor, Tensor], Tensor],
    *,
    autocast: bool = False,
) -> float:
    """Return the mean of a metric over a data set, with the model in evaluation mode.

    Args:
        model: on the batches' device; its training modes are put back afterwards.
        batches: inputs, each a tensor [N, ...] or several by position or name, and targets.
        metric: (outputs float32 [N, ...], targets) → one value per example, [N].
        autocast: run in bf16.

    Raises:
        UsageError: there are no batches; the model does not give a tensor, or the metric not one
            value per example.
    """
    total, count = torch.zeros((), dtype=torch.float64), 0
    with evaluating(model):
        for inputs, targets in batches:
            with torch.autocast(first(inputs).device.type, torch.bfloat16, enabled=autocast):
                outputs = run(model, inputs)
            if not isinstance(outputs, Tensor):
                raise UsageError(
                    f"a metric is taken of one tensor, but the model gives a "
                    f"{type(outputs).__name__}; wrap it in a module that returns the tensor"
                )
            values = _per_example(metric(outputs.float(), targets), size(inputs))
            total = total.to(values.device) + values.sum(dtype=torch.float64)
            count += len(values)
    if not count:
        raise UsageError("cannot evaluate a model on no data; the split given is empty")
    return total.item() / count


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


def _per_example(values: object, count: int) -> Tensor:
    if isinstance(values, Tensor) and values.shape == (count,):
        return values
    got = list(values.shape) if isinstance(values, Tensor) else f"a {type(values).__name__}"
    raise UsageError(
        f"a metric gives one value per example, here a tensor [{count}], but this one gives {got}; "
        "average over all but the first dimension, and not over the examples"
    )
