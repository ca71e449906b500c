"""Networks of float16, computed in float32: every half becomes a float, and nothing is rounded.

A float holds every half exactly, so weights stay what they are; stored as fp16 (`values`), they
take no more room than before. What the network computes is as exact as float32, which is better
than float16 and not bit for bit the same. bfloat16 is float32 already where a file is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from secateur.compiler.graph import Graph, Node, Tensor
from secateur.compiler.ops.cast import ELEMENT_TYPES

HALF, SINGLE = np.dtype(np.float16), np.dtype(np.float32)
_NUMBERS = {dtype: number for number, dtype in ELEMENT_TYPES.items()}
_NAMED = ("to", "dtype")
"""Attributes that name an element type, by ONNX's number."""


def widened(graph: Graph) -> Graph:
    """Return a graph, as it was read, with float32 wherever it has float16, inputs included."""
    constants = {name: _array(array) for name, array in graph.constants.items()}
    types = {
        name: Tensor(SINGLE if tensor.dtype == HALF else tensor.dtype, tensor.shape)
        for name, tensor in graph.types.items()
    }
    nodes = tuple(replace(n, attributes=_attributes(n)) for n in graph.nodes)
    return graph.with_(nodes=nodes, constants=constants, types=types)


def _array(array: np.ndarray) -> np.ndarray:
    return array.astype(SINGLE) if array.dtype == HALF else array


def _attributes(node: Node) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    for name, value in node.attributes.items():
        if isinstance(value, Graph):
            found[name] = widened(value)
        elif isinstance(value, np.ndarray):
            found[name] = _array(value)
        elif name in _NAMED and value == _NUMBERS[HALF]:
            found[name] = _NUMBERS[SINGLE]
        else:
            found[name] = value
    return found
