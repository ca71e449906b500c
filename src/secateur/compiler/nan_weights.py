"""Weights that are NaN, which compile and compare as any others and make outputs of no use."""

from __future__ import annotations

import warnings

import numpy as np

from secateur.compiler.graph import Graph

_WEIGHED = frozenset(
    {"Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "LayerNormalization"}
) | {"LSTM", "GRU", "RNN"}
"""Operators whose constants are what a training learned. Elsewhere NaN may be meant, as a bound of
`Clip` that bounds nothing."""


def warn(graph: Graph) -> None:
    """Warn of layers whose weights hold NaN.

    An engine computes what the network says, and it equals the reference: both are NaN. So nothing
    else would tell.
    """
    found = [
        str(node)
        for node in graph.nodes
        if node.op in _WEIGHED
        and any(_has_nan(graph.constants[name]) for name in node.inputs if name in graph.constants)
    ]
    if found:
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        warnings.warn(
            f"weights of node {found[0]}{more} are NaN, and so is what is computed with them; "
            "train the network again, from before that began",
            stacklevel=2,
        )


def _has_nan(array: np.ndarray) -> bool:
    return array.dtype.kind == "f" and bool(np.isnan(array).any())
