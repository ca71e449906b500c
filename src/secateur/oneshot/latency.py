"""How long one pass of a network takes here, compiled."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

from torch import Tensor, nn

from secateur.compiler.call import compile as compile_model

if TYPE_CHECKING:
    from secateur.inputs import Inputs

LEAST_SECONDS = 0.3
LEAST_RUNS = 20


def compiled_latency(model: nn.Module, example: Inputs, *, threads: int | None = None) -> float:
    """Return the median milliseconds of one pass over the example, compiled for this machine.

    Runs for at least 0.3 seconds and 20 passes after a first one; a machine that others use
    too gives different figures from minute to minute.

    Args:
        model: a torch module that the compiler takes.
        example: one input tensor or several, float32 on the CPU.
        threads: as in `secateur.compile`.

    Raises:
        CompileError: the network cannot be compiled; says where and why.
        UsageError: the example is a mapping.
    """
    tensors = (example,) if isinstance(example, Tensor) else tuple(example)
    engine = compile_model(model, tensors, threads=threads)
    arrays = [tensor.numpy() for tensor in tensors if isinstance(tensor, Tensor)]
    with engine:
        engine(*arrays)
        times: list[float] = []
        while len(times) < LEAST_RUNS or sum(times) < LEAST_SECONDS:
            start = time.perf_counter()
            engine(*arrays)
            times.append(time.perf_counter() - start)
    return statistics.median(times) * 1000
