"""Norms: over windows, over whole planes and along an axis."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from secateur.compiler.graph import Node, unsupported
from secateur.compiler.ops import Operand, rules
from secateur.compiler.ops.pooling import pool_divisors, pool_window
from secateur.compiler.rewrites import Builder


def _input(node: Node, build: Builder, name: str) -> Operand:
    rules.arity(node, build.operands(), 1, 1)
    return rules.operand(node, build.operands(), 0, name, rules.FLOATS)


def _power(node: Node, build: Builder, x: str, p: int) -> str:
    """Return |x| to the p-th power."""
    if p < 1:
        raise unsupported(node, f"p={p}")
    if p == 2:
        return build.add("Mul", x, x)
    size = build.add("Abs", x)
    return size if p == 1 else build.add("Pow", size, build.constant(p, build.dtype(x)))


def _root(build: Builder, x: str, p: int) -> str:
    if p == 1:
        return x
    if p == 2:
        return build.add("Sqrt", x)
    return build.add("Pow", x, build.constant(1 / p, build.dtype(x)))


def _windows(node: Node, build: Builder) -> tuple[str, ...]:
    """The mean over each window times what it was divided by is the sum."""
    x, p = _input(node, build, "X"), node.get("p", 2)
    pooling = {key: value for key, value in node.attributes.items() if key != "p"}
    pool = replace(node, op="AveragePool", attributes=pooling)
    form = pool_window(pool, x.shape[2:])
    divisors = pool_divisors(pool, form, x.shape[2:])
    mean = build.add("AveragePool", _power(node, build, node.inputs[0], p), **pooling)
    total = build.add("Mul", mean, build.constant(divisors, x.dtype))
    return (_root(build, total, p),)


def _planes(node: Node, build: Builder) -> tuple[str, ...]:
    x, p = _input(node, build, "X"), node.get("p", 2)
    if len(x.shape) < 3:
        raise unsupported(node, f"an input of shape {x.shape}; it needs a spatial axis")
    axes = build.constant(range(2, len(x.shape)), np.int64)
    total = build.add("ReduceSum", _power(node, build, node.inputs[0], p), axes, keepdims=1)
    return (_root(build, total, p),)


def _lines(node: Node, build: Builder) -> tuple[str, ...]:
    """What has no length stays 0."""
    x, p = _input(node, build, "input"), node.get("p", 2)
    if p not in (1, 2):
        raise unsupported(node, f"p={p}; 1 and 2 are norms here")
    axis = rules.axis(node, node.get("axis", -1), len(x.shape))
    source = node.inputs[0]
    length = build.add(f"ReduceL{p}", source, build.constant([axis], np.int64), keepdims=1)
    none = build.add("Equal", length, build.constant(0, x.dtype))
    divisor = build.add("Where", none, build.constant(1, x.dtype), length)
    return (build.add("Div", source, divisor),)


REWRITES = {"GlobalLpPool": _planes, "LpNormalization": _lines, "LpPool": _windows}
