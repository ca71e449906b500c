"""The one intermediate representation: an immutable graph of ONNX operators with fixed shapes.

A graph is a value. A pass takes a graph and returns another; nothing is changed in place.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np

from secateur.errors import CompileError, printable

EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Tensor:
    """The type of a value: dtype and fixed shape (a scalar has shape `()`).

    Attributes:
        value: the array, where a graph has it as a constant; no part of equality.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    value: np.ndarray | None = field(default=None, compare=False, repr=False)

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass(frozen=True)
class Node:
    """One operation.

    Attributes:
        op: operator, as ONNX spells it (`Conv`), or one of secateur's own, made by a pass.
        name: unique in its graph; errors name it.
        inputs: names of values; `""` stands for an optional input that is absent.
        outputs: names of values; `""` for an output that nobody wants.
        attributes: int, float, str, tuple of these, or a read-only numpy array.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=lambda: EMPTY)

    def __post_init__(self) -> None:
        object.__setattr__(self, "attributes", MappingProxyType(dict(self.attributes)))

    def get(self, attribute: str, default: Any = None) -> Any:
        """Return an attribute, or a default where the node does not carry it."""
        return self.attributes.get(attribute, default)

    @property
    def output(self) -> str:
        """The first output that anybody wants; `""` where nobody wants any."""
        return next(filter(None, self.outputs), "")

    def __str__(self) -> str:
        return f"{printable(self.op)} {self.name!r}"


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which they can run, and what flows between them.

    Attributes:
        nodes: in topological order.
        inputs: names of the values that the caller gives, in order.
        outputs: names of the values that the caller gets, in order.
        constants: weights and other fixed arrays, read-only, by value name.
        types: dtype and shape by value name, of inputs, constants and (after the `shapes` pass)
            every node's outputs.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, np.ndarray]
    types: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        constants = {name: _read_only(array) for name, array in self.constants.items()}
        types = {name: Tensor(t.dtype, t.shape) for name, t in self.types.items()}
        types |= {name: Tensor(a.dtype, a.shape, a) for name, a in constants.items()}
        object.__setattr__(self, "constants", MappingProxyType(constants))
        object.__setattr__(self, "types", MappingProxyType(types))

    def with_(self, **changes: Any) -> Graph:
        """Return a copy with some fields replaced."""
        return replace(self, **changes)

    def producers(self) -> dict[str, Node]:
        """Return the node that makes each value; inputs and constants have none."""
        return {output: node for node in self.nodes for output in node.outputs if output}

    def consumers(self) -> dict[str, tuple[Node, ...]]:
        """Return the nodes that read each value, in order, each once."""
        found: dict[str, dict[str, Node]] = {}
        for node in self.nodes:
            for value in node.inputs:
                if value:
                    found.setdefault(value, {})[node.name] = node
        return {value: tuple(nodes.values()) for value, nodes in found.items()}


def fresh(taken: Iterable[str], wish: str) -> str:
    """Return a name that is not taken: the wish itself, or the wish with a number."""
    names = set(taken)
    name, number = wish, 1
    while name in names:
        name, number = f"{wish}_{number}", number + 1
    return name


def unlike(names: Collection[str]) -> str:
    """Return a start that none of these names has, so that whatever begins with it is apart."""
    return next(
        start
        for start in (f"one {number} " for number in itertools.count())
        if not any(name.startswith(start) for name in names)
    )


def with_start(graph: Graph, start: str) -> Graph:
    """Return a graph in which the name of every value begins so; names of nodes stay."""

    def new(name: str) -> str:
        return start + name if name else ""

    return Graph(
        tuple(
            replace(n, inputs=tuple(map(new, n.inputs)), outputs=tuple(map(new, n.outputs)))
            for n in graph.nodes
        ),
        tuple(map(new, graph.inputs)),
        tuple(map(new, graph.outputs)),
        {new(name): array for name, array in graph.constants.items()},
        {new(name): tensor for name, tensor in graph.types.items()},
    )


class UndecidedError(CompileError):
    """A node needs a value when the network is compiled, but that depends on the inputs.

    Attributes:
        node: it is named.
        what: what of it depends on them, such as "its condition".
        value: name of the value, where it is known.
        advice: what to do about it, other than to fix an input.
    """

    def __init__(self, node: Node, what: str, value: str, advice: str) -> None:
        super().__init__(
            str(unsupported(node, f"{what} depends on the network's inputs; {advice}"))
        )
        self.node, self.what, self.value, self.advice = node, what, value, advice


def unsupported(node: Node, what: str) -> CompileError:
    """Return the error for something about a node that cannot be compiled.

    Args:
        node: it is named.
        what: what is not supported, for example `"auto_pad=SAME_LOWER with dilations"`.
    """
    return CompileError(f"node {node} cannot be compiled: {printable(what)}")


def _read_only(array: np.ndarray) -> np.ndarray:
    if array.flags.writeable or not array.flags.c_contiguous:
        array = np.array(array, order="C")
        array.flags.writeable = False
    return array
