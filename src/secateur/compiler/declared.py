"""Shapes that a file declares for values inside, against those that its operators give."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from secateur.compiler.graph import Graph
from secateur.compiler.onnx_inputs import Dim
from secateur.errors import printable

_FROM_SCALES = frozenset({"Resize"})
"""Operators whose extents are products that are rounded, which exporters round otherwise."""


def warn(graph: Graph, declared: Mapping[str, tuple[Dim, ...]]) -> None:
    """Warn of a resize that gives other extents than the file declares.

    The engine gives what the operator does, as ONNX defines it: the extent times the scale, rounded
    down. The first axis may be a batch, and is not compared.

    Args:
        graph: with types.
        declared: by value, extents as the file has them.
    """
    for node in graph.nodes:
        if node.op not in _FROM_SCALES:
            continue
        gives, says = graph.types[node.outputs[0]].shape, declared.get(node.outputs[0], ())
        if not any(
            isinstance(said, int) and said > 0 and said != extent
            for extent, said in zip(gives[1:], says[1:], strict=False)
        ):
            continue
        said = ", ".join("?" if dim is None else printable(str(dim)) for dim in says)
        warnings.warn(
            f"node {node} gives {list(gives)}, but the file declares [{said}]: ONNX rounds an "
            "extent times its scale down, and so does the engine; export the model with sizes in "
            "place of scales if the declared shape is meant",
            stacklevel=2,
        )
