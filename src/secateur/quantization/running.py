"""Runs a float network on many samples, some at a time, and lets others see and change values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from secateur.compiler.graph import EMPTY, Node
from secateur.compiler.ops import find
from secateur.compiler.ops.convolution import window
from secateur.quantization.network import Float

Arrays = Mapping[str, np.ndarray]
Seen = Callable[[str, np.ndarray], np.ndarray]
"""(value, what it is) -> what the nodes behind it read."""

MOST = 2**26
"""Elements of all values of the samples that are run together: 256 MB of float32."""

LARGEST = 64
"""Samples that are run together at most."""


def at_once(network: Float) -> int:
    """Return how many samples are run together."""
    if network.samples:
        return network.samples
    grown = sum(
        prod(tensor.shape)
        for name, tensor in network.graph.types.items()
        if name in network.growing
    )
    few = max((network.graph.types[name].shape[0] for name in network.graph.inputs), default=1)
    return int(min(LARGEST, max(1, MOST * few // max(1, grown))))


def chunks(
    network: Float, data: Arrays, most: int | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """Yield samples by input, as many as are run together."""
    count = len(next(iter(data.values())))
    step = most or at_once(network)
    for start in range(0, count, step):
        yield {name: array[start : start + step] for name, array in data.items()}


def run(
    network: Float,
    data: Arrays,
    *,
    nodes: Mapping[str, Node] = EMPTY,
    constants: Arrays = EMPTY,
    seen: Seen | None = None,
) -> dict[str, np.ndarray]:
    """Return the outputs for samples that are run together.

    Args:
        network: what is run.
        data: an array for each input.
        nodes: by name, nodes that take the place of others.
        constants: arrays that take the place of others, or that such nodes read.
        seen: is called with every value that depends on inputs, in order, inputs first. Outputs
            are as they were before it.
    """
    graph = network.graph
    count = len(next(iter(data.values())))
    values: dict[str, np.ndarray] = {**network.constants(count), **constants}
    steps = [nodes.get(node.name, node) for node in graph.nodes]
    last = {name: index for index, node in enumerate(steps) for name in node.inputs}
    outputs = {name: values[name] for name in graph.outputs if name in values}

    def put(name: str, array: np.ndarray) -> None:
        if name in graph.outputs:
            outputs[name] = array
        array = array if seen is None else seen(name, array)
        if name in last:
            values[name] = array

    for name in graph.inputs:
        put(name, data[name])
    for index, node in enumerate(steps):
        arrays = tuple(values[name] if name else None for name in node.inputs)
        with np.errstate(all="ignore"):
            results = _computed(node, arrays)
        del arrays
        for name, array in zip(node.outputs, results, strict=False):
            if name:
                put(name, array)
        for name in {*node.inputs}:
            if name and last[name] == index:
                del values[name]
    return {name: outputs[name] for name in graph.outputs}


def _computed(node: Node, arrays: tuple[np.ndarray | None, ...]) -> tuple[np.ndarray, ...]:
    """Return what a node gives: convolutions by torch, which is several times as fast."""
    if node.op == "Conv":
        x, w, b = (*arrays, None)[:3]
        if x is not None and w is not None and x.dtype == w.dtype == np.float32 and x.size:
            return (_convolved(node, x, w, b),)
    return find(node).reference(node, arrays)


def _convolved(node: Node, x: np.ndarray, w: np.ndarray, b: np.ndarray | None) -> np.ndarray:
    import torch
    from torch.nn import functional

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.require(array, requirements=("C", "W")))

    form = window(node, x.shape[2:], w.shape[2:])
    even = form.before == form.after
    several: tuple[Any, ...] = functional.conv1d, functional.conv2d, functional.conv3d
    with torch.autocast("cpu", enabled=False):  # whatever is around the call
        made: np.ndarray = several[w.ndim - 3](
            tensor(x if even else form.pad(x)),
            tensor(w),
            None if b is None else tensor(b),
            stride=form.strides,
            padding=form.before if even else 0,
            dilation=form.dilations,
            groups=node.get("group", 1),
        ).numpy()
    return made


def joined(parts: Sequence[Arrays]) -> dict[str, np.ndarray]:
    """Return outputs of several runs as one."""
    return {
        name: np.concatenate([part[name] for part in parts])
        if parts[0][name].ndim
        else parts[0][name]
        for name in parts[0]
    }
