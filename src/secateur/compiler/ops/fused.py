"""Secateur's own operators, made by passes: a contraction with all that follows it, in one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from secateur.compiler.graph import Node, Tensor, unsupported
from secateur.compiler.ops import Arrays, Operator, activation, elementwise, rules
from secateur.compiler.ops.convolution import conv_shape, convolve, filled, wide
from secateur.compiler.ops.rules import FLOATS, Operands

Function = Callable[[np.ndarray, float, float], np.ndarray]


def _onnx(op: str, names: tuple[str, ...] = (), **fixed: Any) -> Function:
    """Return an ONNX activation as a function (x, alpha, beta), from its own reference."""
    operator = next(o for o in activation.OPERATORS if o.name == op)

    def function(x: np.ndarray, alpha: float, beta: float) -> np.ndarray:
        parameters = {"alpha": alpha, "beta": beta}
        attributes = fixed | {name: parameters[name] for name in names}
        return operator.reference(Node(op, op, ("x",), ("y",), attributes), (x,))[0]

    return function


ACTIVATIONS: Mapping[str, Function] = MappingProxyType({
    "": lambda x, _alpha, _beta: x,
    "Relu": lambda x, _alpha, _beta: np.maximum(x, 0),
    "LeakyRelu": _onnx("LeakyRelu", ("alpha",)),
    "Clip": elementwise.clipped,
    "Sigmoid": _onnx("Sigmoid"),
    "HardSigmoid": _onnx("HardSigmoid", ("alpha", "beta")),
    "HardSwish": _onnx("HardSwish"),
    "Tanh": lambda x, _alpha, _beta: np.tanh(x),
    "Gelu": _onnx("Gelu"),
    "GeluTanh": _onnx("Gelu", approximate="tanh"),
    "Silu": _onnx("Swish"),
    "Elu": _onnx("Elu", ("alpha",)),
    "Softplus": _onnx("Softplus"),
})  # fmt: skip
"""Name -> function of (x, alpha, beta) that keeps shape and dtype.

Alpha is the slope of LeakyRelu and of Elu, the lower bound of Clip (beta the upper) and the slope
of HardSigmoid (beta the offset); the others have no parameters.
"""


def activate(node: Node, x: np.ndarray) -> np.ndarray:
    """Apply the activation that a node's attributes name."""
    return ACTIVATIONS[node.get("activation", "")](x, node.get("alpha", 0.0), node.get("beta", 0.0))


def _known(node: Node) -> None:
    if node.get("activation", "") not in ACTIVATIONS:
        raise unsupported(node, f"activation={node.get('activation')}")


def _residual(node: Node, operands: Operands, y: Tensor) -> tuple[Tensor, ...]:
    r = rules.optional(node, operands, 3, "r", FLOATS)
    if r is not None and (r.dtype, r.shape) != (y.dtype, y.shape):
        raise unsupported(node, f"a residual {r.dtype} {r.shape} for an output {y.dtype} {y.shape}")
    return (y,)


def _infer_conv(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    _known(node)
    rules.arity(node, operands, 2, 4)
    x = rules.operand(node, operands, 0, "x", FLOATS)
    w = rules.operand(node, operands, 1, "w", FLOATS)
    b = rules.optional(node, operands, 2, "b", FLOATS)
    rules.same_dtype(node, x, w, b)
    for name, length in (("pads", 2), ("strides", 1), ("dilations", 1)):
        if len(node.get(name, ())) != length * (len(w.shape) - 2):
            raise unsupported(node, f"{name}={node.get(name)} for a weight of shape {w.shape}")
    shape = conv_shape(node, x.shape, w.shape, b.shape if b else None)
    return _residual(node, operands, Tensor(x.dtype, shape))


@np.errstate(all="ignore")
def _conv(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x, w, b, r = filled(arrays, 4)
    y = convolve(node, x, w, b)
    return (_finished(node, y, r, x.dtype),)


def _infer_linear(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    _known(node)
    rules.arity(node, operands, 2, 4)
    x = rules.operand(node, operands, 0, "x", FLOATS)
    w = rules.operand(node, operands, 1, "w", FLOATS)
    b = rules.optional(node, operands, 2, "b", FLOATS)
    rules.same_dtype(node, x, w, b)
    if len(w.shape) != 2 or x.shape[-1:] != w.shape[1:] or (b and b.shape != w.shape[:1]):
        raise unsupported(node, f"input {x.shape}, weight {w.shape}, bias {b and b.shape}")
    return _residual(node, operands, Tensor(x.dtype, (*x.shape[:-1], w.shape[0])))


@np.errstate(all="ignore")
def _linear(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x, w, b, r = filled(arrays, 4)
    dtype = wide(x.dtype)
    rows = x.astype(dtype, copy=False).reshape(-1, x.shape[-1])
    y = (rows @ w.astype(dtype, copy=False).T).reshape(*x.shape[:-1], len(w))
    if b is not None:
        y += b.astype(dtype, copy=False)
    return (_finished(node, y, r, x.dtype),)


def _finished(node: Node, y: np.ndarray, r: np.ndarray | None, dtype: np.dtype[Any]) -> np.ndarray:
    if r is not None:
        y = y + r
    return np.asarray(activate(node, y), dtype)


def _infer_activation(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    _known(node)
    rules.arity(node, operands, 1, 1)
    x = rules.operand(node, operands, 0, "x", FLOATS)
    return (Tensor(x.dtype, x.shape),)


@np.errstate(all="ignore")
def _activation(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x = rules.array(arrays, 0)
    return (np.asarray(activate(node, x.astype(wide(x.dtype), copy=False)), x.dtype),)


_ACTIVATION = {"activation", "alpha", "beta"}

OPERATORS = (
    Operator(
        "FusedConv",
        _infer_conv,
        _conv,
        frozenset(_ACTIVATION | {"dilations", "group", "pads", "strides"}),
    ),
    Operator("FusedLinear", _infer_linear, _linear, frozenset(_ACTIVATION)),
    Operator("Activation", _infer_activation, _activation, frozenset(_ACTIVATION)),
)
