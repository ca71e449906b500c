"""Batch normalization by the statistics of the batch itself, as in training.

Exporters write it where no statistics were kept, and where a layer standardizes its own weights.
"""

from __future__ import annotations

import numpy as np

from secateur.compiler.graph import Node
from secateur.compiler.ops import rules
from secateur.compiler.ops.normalization import EPSILON, of_channels
from secateur.compiler.rewrites import Builder

MOMENTUM = 0.9
"""What ONNX takes where the attribute is absent."""


def _batch(node: Node, build: Builder) -> tuple[str, ...] | None:
    if not node.get("training_mode", 0):
        return None
    operands = build.operands()
    x = of_channels(node, operands, ("scale", "B", "input_mean", "input_var"))
    dtype = rules.same_dtype(node, *operands)
    shape = (x.shape[1], *(1,) * (len(x.shape) - 2))
    axes = build.constant([a for a in range(len(x.shape)) if a != 1], np.int64)
    mean = build.add("ReduceMean", node.inputs[0], axes, keepdims=1)
    centred = build.add("Sub", node.inputs[0], mean)
    # of the numbers that there are: ONNX does not divide by one less
    variance = build.add("ReduceMean", build.add("Mul", centred, centred), axes, keepdims=1)
    epsilon = build.constant(node.get("epsilon", EPSILON), dtype)
    root = build.add("Sqrt", build.add("Add", variance, epsilon))
    scale, bias = (build.reshape(name, shape) for name in node.inputs[1:3])
    y = build.add("Add", build.add("Mul", build.add("Div", centred, root), scale), bias)
    momentum = node.get("momentum", MOMENTUM)
    old, new = (build.constant(share, dtype) for share in (momentum, 1 - momentum))
    running = (
        build.add(
            "Add",
            build.add("Mul", before, old),
            build.add("Mul", build.reshape(now, x.shape[1:2]), new),
        )
        for before, now in zip(node.inputs[3:5], (mean, variance), strict=True)
    )
    return (y, *running)


REWRITES = {"BatchNormalization": _batch}
