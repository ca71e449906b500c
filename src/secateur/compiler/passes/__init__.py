"""The compiler's front end: a literal list of passes, with a verifier after each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from secateur.compiler.graph import Graph
from secateur.compiler.passes import (
    batchnorm,
    dead,
    dynamic,
    fold,
    fuse,
    identity,
    integers,
    moving,
    pooled,
    recurrence,
    rounding,
    shortcut,
    verify,
)

Pass = tuple[str, Callable[[Graph], Graph]]

# In this order: shapes and values first, because all others need types.
PASSES: tuple[Pass, ...] = (
    ("fold", fold.run),
    ("identity", identity.run),
    ("dynamic", dynamic.run),
    ("shortcut", shortcut.run),
    ("pooled", pooled.run),
    ("batchnorm", batchnorm.run),
    ("dead", dead.run),
    ("batchnorm", batchnorm.run),  # removed channels leave sums that join biases
    ("identity", identity.run),
    ("fuse", fuse.run),
    ("rounding", rounding.run),
    ("integers", integers.run),
    ("moving", moving.run),
    ("recurrence", recurrence.run),
    ("identity", identity.run),  # what fusing leaves behind
)


def in_floats(graph: Graph) -> Graph:
    """Return what all passes before `integers` make of a graph.

    Args, Raises: as `apply`.
    """
    return apply(graph, PASSES[: [name for name, _ in PASSES].index("integers")])


def apply(graph: Graph, passes: Sequence[Pass] = PASSES) -> Graph:
    """Return what a list of passes makes of a graph.

    Args:
        graph: as `onnx_reader.read` gives it.
        passes: (name, pass) in order; the first must give types to all values.

    Raises:
        CompileError: the network cannot be compiled, or a pass broke the graph, which is a
            defect of secateur.
    """
    with np.errstate(all="ignore"):  # weights may hold anything
        for name, run in passes:
            graph = run(graph)
            verify.check(graph, f"pass {name}")
    return graph
