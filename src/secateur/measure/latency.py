"""How long one pass of a network takes here, compiled."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

from torch import nn

from secateur.compiler.call import compile as compile_model
from secateur.compiler.pipeline import compile_network
from secateur.export import names_of
from secateur.quantization.call import quantize

if TYPE_CHECKING:
    from secateur.model.inputs import Inputs

LEAST_SECONDS = 0.3
LEAST_RUNS = 20


def compiled_latency(
    model: nn.Module, example: Inputs, *, threads: int | None = None, int8: bool = False
) -> float:
    """Return the median milliseconds of one pass over the example, compiled for this machine.

    Runs for at least 0.3 seconds and 20 passes after a first one; a machine that others use
    too gives different figures from minute to minute.

    Args:
        model: a torch module that the compiler takes.
        example: its inputs, as `secateur.compile` takes them, on the CPU.
        threads: as in `secateur.compile`.
        int8: quantise it first. Ranges are those of the example, on which no time depends.

    Raises:
        CompileError: the network cannot be compiled, or quantised; says where and why.
        UsageError: there is no tensor in the example.
    """
    every = {name: tensor.detach().numpy() for name, tensor in names_of(example).items()}
    if int8:
        content = quantize(model, example, ranges="minmax").content
        engine = compile_network(content).engine(threads)
    else:
        engine = compile_model(model, example, threads=threads)
    # what nothing reads is no input of the engine
    arrays = {given["name"]: every[given["name"]] for given in engine.info["inputs"]}
    with engine:
        engine(arrays)
        times: list[float] = []
        while len(times) < LEAST_RUNS or sum(times) < LEAST_SECONDS:
            start = time.perf_counter()
            engine(arrays)
            times.append(time.perf_counter() - start)
    return statistics.median(times) * 1000
