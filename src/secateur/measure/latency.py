"""How long one pass of a network takes here, compiled."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

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
MOST_SECONDS = 3.0

RECURRENT = ("RNN", "GRU", "LSTM")
"""Steps that have weights, and are told by no count of them."""

PROFILES = 100
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
        together, in all its calls. Layers that do not say which module they are of have a name of
        their own.
    """
    with _compiled(model, example, threads, int8) as (engine, arrays):
        profiles: list[dict[str, float]] = []
        start = time.perf_counter()
        while len(profiles) < PROFILES and time.perf_counter() - start < MOST_SECONDS:
            profiles.append(dict(engine.profile(arrays)))
        facts = {step["name"]: step for steps in engine.info["steps"] for step in steps}
    found: dict[str, float] = {}
    modules = {name for name, module in model.named_modules() if _weights(module)}
    for name in profiles[0]:
        if "nonzeros" in (fact := facts.get(name, {})) or fact.get("op") in RECURRENT:
            module = _of(_module(fact["layer"]), modules)
            least = min(profile[name] for profile in profiles)
            found[module] = found.get(module, 0.0) + least * 1000
    return found


@contextmanager
def _compiled(
    model: nn.Module, example: Inputs, threads: int | None, int8: bool
) -> Iterator[tuple[Engine, Mapping[str, np.ndarray[Any, Any]]]]:
    """Yield an engine that has run once, and its inputs."""
    every = {name: _array(tensor) for name, tensor in names_of(example).items()}
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


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    """Return a tensor as an engine takes it: numpy has no bfloat16, and engines take float32."""
    wide = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    array: np.ndarray[Any, Any] = wide.detach().cpu().numpy()
    return array


def _weights(module: nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is not None


def _of(name: str, modules: Collection[str]) -> str:
    """Return the module that an exporter's name means, of those with weights; or the name.

    A second call has a number behind it, a module in a dict lacks the dict's name, and a recurrent
    layer's own operators stand within it.
    """
    first = re.sub(r"_\d+(?=\.|$)", "", name)
    for tried in (name, first):
        if tried in modules:
            return tried
        inside = [module for module in modules if module.endswith(f".{tried}")]
        if len(inside) == 1:
            return inside[0]
    parent = first.rpartition(".")[0]
    return parent if parent in modules else name


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
