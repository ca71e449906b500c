"""Operators that are expressed by others, once the types of their inputs are known.

Adding one is a function in a file here: every module of this package that has a mapping `REWRITES`
is found by itself. What an operator means is then what the operators mean that it becomes; the
contract tests hold it against ONNX's own tests and ONNX Runtime.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np

from secateur.compiler.graph import Node, Tensor
from secateur.compiler.ops import Operand


@dataclass(frozen=True)
class Builder:
    """Where a rule puts its nodes; the type of each value is known as soon as it is made.

    Attributes:
        types: by value.
        put: takes a node, whose inputs are known, and finds out types and constant values.
        keep: takes a new constant by its name.
        name: gives names that are new, for nodes and values both, from wishes.
        node: the node that is rewritten.
    """

    types: Mapping[str, Tensor]
    put: Callable[[Node], None]
    keep: Callable[[str, np.ndarray], None]
    name: Callable[[str], str]
    node: Node

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add a node of one output and return that."""
        return self.several(op, *inputs, outputs=1, **attributes)[0]

    def several(self, op: str, *inputs: str, outputs: int, **attributes: Any) -> tuple[str, ...]:
        """Add a node of several outputs and return them."""
        name = self.name(f"{self.node.name}/{op}")
        made = tuple(self.name(f"{name}:{k}") for k in range(outputs))
        self.put(Node(op, name, inputs, made, attributes))
        return made

    def constant(self, array: Any, dtype: Any = None) -> str:
        """Keep an array as a new constant and return its name."""
        name = self.name(f"{self.node.name}/constant")
        self.keep(name, np.array(array, dtype))
        return name

    def operands(self) -> tuple[Operand | None, ...]:
        """Return the inputs of the node that is rewritten, as shape inference sees them."""
        return tuple(self.operand(name) if name else None for name in self.node.inputs)

    def operand(self, value: str) -> Operand:
        """Return a value as shape inference sees it."""
        tensor = self.types[value]
        return Operand(tensor.dtype, tensor.shape, tensor.value, value)

    def shape(self, value: str) -> tuple[int, ...]:
        """Return the shape of a value."""
        return self.types[value].shape

    def dtype(self, value: str) -> np.dtype[Any]:
        """Return the element type of a value."""
        return self.types[value].dtype

    def reshape(self, value: str, shape: tuple[int, ...]) -> str:
        """Return a value in another shape, in which an extent of 0 is an extent."""
        return self.add("Reshape", value, self.constant(shape, np.int64), allowzero=1)

    def places(self, extent: int, behind: int = 0) -> str:
        """Return 0, 1, ... along an axis, int64, that has so many axes of extent 1 behind it.

        It is a node, so that how much memory a file's number takes is checked as it is for others.
        """
        bounds = (self.constant(number, np.int64) for number in (0, extent, 1))
        places = self.add("Range", *bounds)
        if not behind:
            return places
        axes = self.constant(range(1, 1 + behind), np.int64)
        return self.add("Unsqueeze", places, axes)


Rule = Callable[[Node, Builder], tuple[str, ...] | None]
"""(node, where to build) -> for each output of the node, the value that is it; None: it stays.

It raises `unsupported(node, ...)` as shape inference does.
"""


@cache
def rules() -> Mapping[str, Rule]:
    """Return the rule of every operator that is expressed by others, by operator name."""
    found: dict[str, Rule] = {}
    for module in pkgutil.iter_modules(__path__):
        part = importlib.import_module(f"{__name__}.{module.name}")
        for op, rule in getattr(part, "REWRITES", {}).items():
            if op in found:
                raise AssertionError(f"operator {op} is rewritten twice")
            found[op] = rule
    return MappingProxyType(found)
