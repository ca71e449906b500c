"""How long one pass of a network takes here, compiled."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn

from secateur.compiler.call import compile as compile_model
from secateur.compiler.pipeline import compile_network
from secateur.model.inputs import names_of
from secateur.quantization.call import quantize

if TYPE_CHECKING:
    import numpy as np

    from secateur.compiler.runtime import Engine
    from secateur.model.inputs import Inputs

LEAST_SECONDS = 0.3
LEAST_RUNS = 20

PROFILES = 10
"""Times that every step is timed: what else a machine does only adds to the least of them."""


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
    with _compiled(model, example, threads, int8) as (engine, arrays):
        times: list[float] = []
        while len(times) < LEAST_RUNS or sum(times) < LEAST_SECONDS:
            start = time.perf_counter()
            engine(arrays)
            times.append(time.perf_counter() - start)
    return statistics.median(times) * 1000


def layer_latencies(
    model: nn.Module, example: Inputs, *, threads: int | None = None, int8: bool = False
) -> dict[str, float]:
    """Return the milliseconds of one pass that each module with weights takes, compiled.

    Arguments and errors are those of `compiled_latency`. The least of several timings counts.

    Returns:
        A module's name, as in `named_modules`, → what the layers that run its own weights take
        together. Layers that do not say which module they are of are missing.
    """
    with _compiled(model, example, threads, int8) as (engine, arrays):
        profiles = [dict(engine.profile(arrays)) for _ in range(PROFILES)]
        facts = {step["name"]: step for steps in engine.info["steps"] for step in steps}
    found: dict[str, float] = {}
    for name in profiles[0]:
        if "nonzeros" in (fact := facts.get(name, {})):
            module = _module(fact["layer"])
            least = min(profile[name] for profile in profiles)
            found[module] = found.get(module, 0.0) + least * 1000
    return found


@contextmanager
def _compiled(
    model: nn.Module, example: Inputs, threads: int | None, int8: bool
) -> Iterator[tuple[Engine, Mapping[str, np.ndarray[Any, Any]]]]:
    """Yield an engine that has run once, and its inputs."""
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
        yield engine, arrays


def _module(layer: str) -> str:
    """Return the module of an exporter's layer: block.0.conv of '/block/block.0/conv/Conv'.

    A module in a list or a sequence is called by the list's name and its own.
    """
    path: list[str] = []
    for part in layer.strip("/").split("/")[:-1]:
        if path and part.startswith(f"{path[-1]}."):
            path.pop()
        path.append(part)
    return ".".join(path)
