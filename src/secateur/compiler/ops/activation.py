"""Activation functions: one floating-point input, one output of the same shape."""

from __future__ import annotations

from collections.abc import Callable
from math import pi, sqrt
from typing import Any

import numpy as np

from secateur.compiler.graph import Node, Tensor, unsupported
from secateur.compiler.ops import Arrays, Operator, rules
from secateur.compiler.ops.elementwise import elementwise
from secateur.compiler.ops.rules import FLOATS, WIDE, Operands

SELU = (1.67326319217681884765625, 1.05070102214813232421875)
"""alpha and gamma, the single-precision numbers that ONNX gives as defaults."""


def _activation(name: str, function: Callable[..., Any], **defaults: float | str) -> Operator:
    """Make an operator of a function (x, **attributes) of float32 or float64 arrays."""

    def infer(node: Node, operands: Operands) -> tuple[Tensor, ...]:
        if "approximate" in defaults and node.get("approximate", "none") not in ("none", "tanh"):
            raise unsupported(node, f"approximate={node.get('approximate')}")
        return elementwise(FLOATS, 1)(node, operands)

    def reference(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
        x = rules.array(arrays, 0)
        attributes = {key: node.get(key, value) for key, value in defaults.items()}
        with np.errstate(all="ignore"):
            # Half precision is only stored: every step in between would round again.
            y = function(x.astype(np.promote_types(x.dtype, np.float32)), **attributes)
            return (np.asarray(y, x.dtype),)

    return Operator(name, infer, reference, frozenset(defaults))


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-x)), without overflow, and exact to a few ulp for every x."""
    e = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1, e) / (1 + e))


def _erf(x: np.ndarray) -> Any:
    import scipy.special  # not before it is used: importing the compiler stays quick

    return scipy.special.erf(x)


def _erfc(x: np.ndarray) -> Any:
    import scipy.special

    return scipy.special.erfc(x)


def _celu(x: np.ndarray, alpha: float) -> Any:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0) / alpha))


def _elu(x: np.ndarray, alpha: float) -> Any:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _gelu(x: np.ndarray, approximate: str) -> Any:
    if approximate == "tanh":  # (1 + tanh(u)) / 2 is sigmoid(2 u), which cancels nothing
        return x * sigmoid(sqrt(8 / pi) * (x + 0.044715 * x * x * x))
    return 0.5 * x * _erfc(-x / sqrt(2))  # 1 + erf cancels where x is negative


def _hard_sigmoid(x: np.ndarray, alpha: float, beta: float) -> Any:
    return np.clip(alpha * x + beta, 0, 1)


def _softplus(x: np.ndarray) -> Any:
    return np.logaddexp(x, 0)


def _infer_prelu(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 2, 2)
    x = rules.operand(node, operands, 0, "X", WIDE)
    slope = rules.operand(node, operands, 1, "slope", WIDE)
    rules.same_dtype(node, x, slope)
    if rules.broadcast(node, x.shape, slope.shape) != x.shape:
        raise unsupported(node, f"a slope of shape {slope.shape} for an input of {x.shape}")
    return (Tensor(x.dtype, x.shape),)


def _prelu(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x, slope = rules.array(arrays, 0), rules.array(arrays, 1)
    with np.errstate(all="ignore"):
        return (np.where(x < 0, x * slope, x),)


OPERATORS = (
    _activation("Celu", _celu, alpha=1.0),
    _activation("Elu", _elu, alpha=1.0),
    _activation("Erf", _erf),
    _activation("Gelu", _gelu, approximate="none"),
    _activation("HardSigmoid", _hard_sigmoid, alpha=0.2, beta=0.5),
    _activation("HardSwish", lambda x: x * _hard_sigmoid(x, 1 / 6, 0.5)),
    _activation("LeakyRelu", lambda x, alpha: np.where(x < 0, alpha * x, x), alpha=0.01),
    _activation("Mish", lambda x: x * np.tanh(_softplus(x))),
    Operator("PRelu", _infer_prelu, _prelu),
    _activation(
        "Selu", lambda x, alpha, gamma: gamma * _elu(x, alpha), alpha=SELU[0], gamma=SELU[1]
    ),
    _activation("Sigmoid", sigmoid),
    _activation("Softplus", _softplus),
    _activation("Softsign", lambda x: x / (1 + np.abs(x))),
    _activation("Swish", lambda x, alpha: x * sigmoid(alpha * x), alpha=1.0),
    _activation("ThresholdedRelu", lambda x, alpha: np.where(x > alpha, x, 0), alpha=1.0),
)
