"""Where in a torch module the layers and 8-bit values of its exported network are.

They are found by what they are: a copy of the module with weights drawn at random, so that no two
values are the same by chance or by a zero, is exported and run beside its own network. A layer is
the module whose weight has the same rows, up to one factor a row (a batch norm that was folded),
and whose input is the same; a value is what a module reads or gives.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.compiler.graph import Graph, Node
from secateur.errors import CompileError
from secateur.model.copying import copied
from secateur.model.inputs import Inputs, each, names_of, run
from secateur.model.modes import without_autocast
from secateur.model.passes import hooked, undisturbed
from secateur.quantization import inputs, running, tracing
from secateur.quantization.fake import After, Before, Range, Trained, Value
from secateur.quantization.network import Float
from secateur.quantization.placement import SAME, Layer, Placement, layers_of, moves, place
from secateur.quantization.weights import integers_of

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

EXAMPLE = 2
"""Samples that a copy is run on."""

SAME_NUMBERS = 1e-3
"""Largest difference of numbers that count as the same, relative to the largest of them."""


@dataclass(frozen=True)
class Matched:
    """Hooks of a module, by the names of its parts."""

    trained: Trained
    before: Mapping[str, Before]
    after: Mapping[str, After]


@dataclass
class _Seen:
    """What the parts of a module read and gave in one pass, each with its place in time."""

    read: dict[str, list[tuple[int, np.ndarray]]] = field(default_factory=dict)
    gave: dict[str, list[tuple[int, np.ndarray]]] = field(default_factory=dict)
    time: int = 0

    def note(self, into: dict[str, list[tuple[int, np.ndarray]]], name: str, x: object) -> None:
        self.time += 1
        if isinstance(x, Tensor) and x.is_floating_point():
            # a copy: what follows may change it in place
            into.setdefault(name, []).append((self.time, x.detach().clone().numpy()))
        else:
            into.setdefault(name, []).append((self.time, np.empty(0)))


def match(model: nn.Module, data: Any, keep_float: Collection[str]) -> Matched:
    """Return the hooks that round in a module what its exported network rounds.

    Args:
        model: it is not changed.
        data: inputs of it, as for `secateur.quantize`.
        keep_float: names of layers that stay in float32.

    Raises:
        UsageError: the module cannot be copied, or the data do not fit it.
        CompileError: it cannot be exported, or none of its layers can be trained in 8 bit.
    """
    twin = copied(model).cpu().float()
    example = each(
        inputs.tensors(data, 0, EXAMPLE),
        lambda x: x.cpu().float() if x.is_floating_point() else x.cpu(),
    )
    _draw(twin)
    network = tracing.read(twin, example)
    inputs.checked_data(network, data)
    seen = _observed(twin, example)
    values = _values(network, {name: x.numpy() for name, x in names_of(example).items()})
    layers = layers_of(network.graph)
    found = _layers(twin, network.graph, layers, values, seen)
    found = {node: at for node, at in found.items() if at[0] not in keep_float}
    if not found:
        raise CompileError(
            "no layer of the module can be trained in 8 bit: that takes a convolution or linear "
            "layer which the module calls itself, with a weight that is its own parameter, and "
            "which is not in keep_float"
        )
    fixed = [n for n, layer in layers.items() if n not in found and _exact(network.graph, layer)]
    kept = [name for name in layers if name not in {*found, *fixed}]
    placement = place(network.graph, layers, kept)
    return _hooks(network.graph, placement, values, found, seen)


def _draw(twin: nn.Module) -> None:
    """Move every weight at random, by about half of its size."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in twin.parameters():
            if parameter.is_floating_point():
                size = float(parameter.abs().mean()) / 2 or 0.1
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=size)


def _observed(twin: nn.Module, example: Inputs) -> _Seen:
    seen = _Seen()

    def read(name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        seen.note(seen.read, name, args[0] if args else kwargs.get("input"))

    def gave(name: str, module: nn.Module, args: Any, output: object) -> None:
        seen.note(seen.gave, name, output)

    handles = []
    for name, module in twin.named_modules():
        if isinstance(module, LAYERS):
            handles.append(module.register_forward_pre_hook(partial(read, name), with_kwargs=True))
        handles.append(module.register_forward_hook(partial(gave, name)))
    with hooked(handles), undisturbed(twin), without_autocast(), torch.no_grad():
        run(twin, example)
    return seen


def _values(network: Float, data: running.Arrays) -> dict[str, np.ndarray]:
    values: dict[str, np.ndarray] = {}

    def seen(name: str, array: np.ndarray) -> np.ndarray:
        values[name] = array
        return array

    running.run(network, {name: data[name] for name in network.graph.inputs}, seen=seen)
    return values


def _layers(
    twin: nn.Module,
    graph: Graph,
    layers: Mapping[str, Layer],
    values: Mapping[str, np.ndarray],
    seen: _Seen,
) -> dict[str, tuple[str, int]]:
    """Return by layer the module that it is, and which of its calls."""
    own = {name: twin.get_submodule(name)._parameters.get("weight") for name in seen.read}
    modules = {name: _directions(w.detach().numpy()) for name, w in own.items() if w is not None}
    found: dict[str, tuple[str, int]] = {}
    for layer in layers.values():
        weight = np.moveaxis(layer.values(graph)[0], layer.axis, 0)
        rows = _directions(weight)
        for name, others in modules.items():
            if others.shape != rows.shape or np.abs(others - rows).max(initial=0) > SAME_NUMBERS:
                continue
            calls = [array for _, array in seen.read[name]]
            call = next((k for k, x in enumerate(calls) if _same(x, values[layer.data])), None)
            if call is not None and (name, call) not in found.values():
                found[layer.name] = name, call
                break
    whole = set(found.values())
    missed = {
        name
        for name, calls in seen.read.items()
        for k in range(len(calls))
        if (name, k) not in whole
    }
    return {node: at for node, at in found.items() if at[0] not in missed}


def _directions(weight: np.ndarray) -> np.ndarray:
    """Return the rows of a weight, each divided by the largest of its numbers."""
    rows = weight.reshape(len(weight), -1)
    if not rows.size:
        return rows
    largest = np.take_along_axis(rows, np.abs(rows).argmax(1)[:, None], 1)
    with np.errstate(all="ignore"):
        divided: np.ndarray = np.nan_to_num(rows / largest)
    return divided


def _exact(graph: Graph, layer: Layer) -> bool:
    """Whether weights drawn at random are what int8 stores: they are no weights, but a pattern.

    So is a shortcut that leaves out pixels and adds channels of zeros.
    """
    weight, bias = layer.values(graph)
    integers, steps = integers_of(weight, layer.axis, clipped=False)
    shape = [1] * weight.ndim
    shape[layer.axis] = -1
    return bias is None and np.allclose(integers * steps.reshape(shape), weight, rtol=1e-6, atol=0)


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    if one.size != other.size or not one.size or other.dtype.kind != "f":
        return False
    a, b = one.reshape(-1), other.reshape(-1)
    return bool(np.abs(a - b).max() <= SAME_NUMBERS * np.abs(b).max())


def _hooks(
    graph: Graph,
    placement: Placement,
    values: Mapping[str, np.ndarray],
    found: Mapping[str, tuple[str, int]],
    seen: _Seen,
) -> Matched:
    places: dict[str, list[tuple[int, str, int]]] = {}  # of a value: when, module, call
    data: dict[str, dict[int, str]] = {}  # of a layer's calls: what it reads
    for node, (name, call) in found.items():
        value = placement.layers[node].data
        places.setdefault(value, []).append((seen.read[name][call][0], name, call))
        data.setdefault(name, {})[call] = value
    outputs: dict[str, str] = {}  # module -> value that it gives
    unseen = []
    for value in _read_elsewhere(graph, placement, found):
        given = _giver(value, graph, values, seen)
        if given is None:
            unseen.append(value)
        else:
            outputs[given[1]] = value
            places.setdefault(value, []).append((given[0], given[1], -1))
    roots = _shared(placement, data)
    ranges: dict[str, Range] = {}
    trackers: dict[tuple[str, int], Value] = {}
    for value, at in places.items():
        _, name, call = min(at)
        tracker = trackers[name, call] = Value()
        ranges.setdefault(roots[placement.group[value]], Range()).values[value] = tracker
    by_value = {
        value: ranges[root]
        for value, first in placement.group.items()
        if (root := roots[first]) in ranges
    }
    names = {node: found[node][0] if node in found else "" for node in placement.layers}
    trained = Trained(names, by_value, tuple(unseen))
    before = {
        name: Before(
            trained, by_value[calls[0]], [trackers.get((name, k)) for k in range(len(calls))]
        )
        for name, calls in data.items()
    }
    after = {
        name: After(trained, by_value[value], [trackers.get((name, -1))])
        for name, value in outputs.items()
    }
    return Matched(trained, before, after)


def _read_elsewhere(graph: Graph, placement: Placement, found: Collection[str]) -> Iterator[str]:
    """Yield the 8-bit values that something else reads than a module, or what only moves numbers.

    What moves numbers gives the same whether they are rounded before or behind it.
    """
    uses = graph.consumers()

    def moved(node: Node, value: str) -> bool:
        first = placement.group[value]
        same = all(placement.group.get(output) == first for output in node.outputs)
        return same and (node.op == "Concat" or (node.op in SAME and moves(graph, node)))

    for value in placement.values:
        for node in uses.get(value, ()):
            reads = node.name in found and placement.layers[node.name].data == value
            if not reads and not moved(node, value):
                yield value
                break


def _giver(
    value: str, graph: Graph, values: Mapping[str, np.ndarray], seen: _Seen
) -> tuple[int, str] | None:
    """Return the module that gives a value first, and when; None if there is none."""
    if value in graph.outputs:  # which stays float32 there
        return None
    given = [
        (calls[0][0], name)
        for name, calls in seen.gave.items()
        if len(calls) == 1 and name and _same(calls[0][1], values[value])
    ]
    return min(given, default=None)


def _shared(placement: Placement, data: Mapping[str, Mapping[int, str]]) -> dict[str, str]:
    """Return by group the first of those that have one range, since one module reads both."""
    parent = {first: first for first in placement.group.values()}

    def root(first: str) -> str:
        while parent[first] != first:
            first = parent[first]
        return first

    for calls in data.values():
        firsts = [placement.group[calls[k]] for k in sorted(calls)]
        for other in firsts[1:]:
            parent[root(other)] = root(firsts[0])
    return {first: root(first) for first in parent}
