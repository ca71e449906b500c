"""Normalization by stored statistics, and by those of the input itself."""

from __future__ import annotations

import numpy as np

from secateur.compiler.graph import Node, Tensor, unsupported
from secateur.compiler.ops import Arrays, Operand, Operator, rules
from secateur.compiler.ops.convolution import filled, wide
from secateur.compiler.ops.rules import FLOATS, Operands

EPSILON = 1e-5
"""What ONNX takes where the attribute is absent, for all of these operators."""


def per_channel(values: np.ndarray, rank: int) -> np.ndarray:
    """Return values [C] shaped to broadcast over [N, C, *spatial] of some rank."""
    return values.reshape(-1, *(1,) * (rank - 2))


def standardized(x: np.ndarray, axes: tuple[int, ...], epsilon: float) -> tuple[np.ndarray, ...]:
    """Return x with mean 0 and variance 1 over axes, the means, and 1 / standard deviations."""
    mean = x.mean(axis=axes, keepdims=True)
    centred = x - mean
    variance = np.square(centred).mean(axis=axes, keepdims=True)
    inverse = np.asarray(1 / np.sqrt(variance + np.asarray(epsilon, x.dtype)), x.dtype)
    return centred * inverse, mean, inverse


def of_channels(node: Node, operands: Operands, names: tuple[str, ...]) -> Operand:
    """Return the first operand [N, C, ...]; those after it must be [C]."""
    rules.arity(node, operands, len(names) + 1, len(names) + 1)
    x = rules.operand(node, operands, 0, "X", FLOATS)
    if len(x.shape) < 2:
        raise unsupported(node, f"an input of shape {x.shape}; it has no axis of channels")
    for i, name in enumerate(names, 1):
        found = rules.operand(node, operands, i, name, FLOATS)
        if found.shape != x.shape[1:2]:
            raise unsupported(node, f"{name} of shape {found.shape} for an input of {x.shape}")
    return x


def _infer_batch(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    if node.get("training_mode", 0):
        raise unsupported(node, "training_mode=1; export the model for inference")
    if any(node.outputs[1:]):
        raise unsupported(node, "running statistics as outputs are not supported")
    x = of_channels(node, operands, ("scale", "B", "input_mean", "input_var"))
    return (Tensor(x.dtype, x.shape),)


@np.errstate(all="ignore")
def _batch(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x = rules.array(arrays, 0)
    dtype = wide(x.dtype)
    scale, bias, mean, variance = (
        per_channel(rules.array(arrays, i).astype(dtype), x.ndim) for i in range(1, 5)
    )
    root = np.sqrt(variance + np.asarray(node.get("epsilon", EPSILON), dtype))
    return (np.asarray((x - mean) / root * scale + bias, x.dtype),)


def _infer_instance(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    x = of_channels(node, operands, ("scale", "B"))
    rules.same_dtype(node, *operands)
    if len(x.shape) < 3:
        raise unsupported(node, f"an input of shape {x.shape}; it has no spatial axis")
    return (Tensor(x.dtype, x.shape),)


@np.errstate(all="ignore")
def _instance(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x = rules.array(arrays, 0)
    dtype = wide(x.dtype)
    scale, bias = (per_channel(rules.array(arrays, i).astype(dtype), x.ndim) for i in (1, 2))
    axes = tuple(range(2, x.ndim))
    normal, *_ = standardized(x.astype(dtype, copy=False), axes, node.get("epsilon", EPSILON))
    return (np.asarray(normal * scale + bias, x.dtype),)


def _infer_group(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    x = of_channels(node, operands, ("scale", "bias"))
    rules.same_dtype(node, *operands)
    _single_precision(node)
    groups = node.get("num_groups", 0)
    if groups < 1 or x.shape[1] % groups:
        raise unsupported(node, f"{groups} groups of {x.shape[1]} channels")
    return (Tensor(x.dtype, x.shape),)


@np.errstate(all="ignore")
def _group(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x = rules.array(arrays, 0)
    dtype = wide(x.dtype)
    scale, bias = (per_channel(rules.array(arrays, i).astype(dtype), x.ndim) for i in (1, 2))
    groups = x.astype(dtype, copy=False).reshape(len(x), node.get("num_groups"), -1)
    normal, *_ = standardized(groups, (2,), node.get("epsilon", EPSILON))
    return (np.asarray(normal.reshape(x.shape) * scale + bias, x.dtype),)


def _single_precision(node: Node) -> None:
    if node.get("stash_type", 1) != 1:
        raise unsupported(node, f"stash_type={node.get('stash_type')}; 1 (float32) is supported")


def _infer_trailing(node: Node, operands: Operands) -> tuple[Operand, int]:
    """Return the input, and the first of the axes at its end that are normalized together."""
    x = rules.operand(node, operands, 0, "X", FLOATS)
    scale = rules.operand(node, operands, 1, "scale", FLOATS)
    bias = rules.optional(node, operands, 2, "B", FLOATS)
    rules.same_dtype(node, x, scale, bias)
    _single_precision(node)
    for operand in (scale, bias):
        if operand is not None and rules.broadcast(node, x.shape, operand.shape) != x.shape:
            raise unsupported(node, f"a scale or B of {operand.shape} for an input of {x.shape}")
    return x, rules.axis(node, node.get("axis", -1), len(x.shape))


def _infer_layer(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 2, 3)
    x, axis = _infer_trailing(node, operands)
    statistics = (*x.shape[:axis], *(1,) * (len(x.shape) - axis))
    stash = Tensor(np.dtype(np.float32), statistics)
    return Tensor(x.dtype, x.shape), stash, stash


@np.errstate(all="ignore")
def _layer(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x, scale, bias = filled(arrays, 3)
    dtype = wide(x.dtype)
    axes = tuple(range(rules.axis(node, node.get("axis", -1), x.ndim), x.ndim))
    normal, mean, inverse = standardized(
        x.astype(dtype, copy=False), axes, node.get("epsilon", EPSILON)
    )
    y = normal * scale.astype(dtype, copy=False)
    if bias is not None:
        y = y + bias.astype(dtype, copy=False)
    return (np.asarray(y, x.dtype), mean.astype(np.float32), inverse.astype(np.float32))


def _infer_rms(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 2, 2)
    x, _ = _infer_trailing(node, operands)
    return (Tensor(x.dtype, x.shape),)


@np.errstate(all="ignore")
def _rms(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x, scale = rules.array(arrays, 0), rules.array(arrays, 1)
    dtype = wide(x.dtype)
    axes = tuple(range(rules.axis(node, node.get("axis", -1), x.ndim), x.ndim))
    values = x.astype(dtype, copy=False)
    power = np.square(values).mean(axis=axes, keepdims=True)
    normal = values / np.sqrt(power + np.asarray(node.get("epsilon", EPSILON), dtype))
    return (np.asarray(normal * scale.astype(dtype, copy=False), x.dtype),)


def response_window(node: Node) -> tuple[int, int]:
    """Return how many channels before and after its own a channel's response is compared with."""
    size = node.get("size", 0)
    if size < 1:
        raise unsupported(node, f"size={size}")
    return (size - 1) // 2, size // 2


def _infer_response(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 1, 1)
    x = rules.operand(node, operands, 0, "X", FLOATS)
    response_window(node)
    if len(x.shape) < 2:
        raise unsupported(node, f"an input of shape {x.shape}; it has no axis of channels")
    return (Tensor(x.dtype, x.shape),)


@np.errstate(all="ignore")
def _response(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    """Krizhevsky, Sutskever and Hinton 2012, section 3.3, with alpha divided by the size."""
    x = rules.array(arrays, 0)
    values = x.astype(wide(x.dtype), copy=False)
    squares, sums, channels = np.square(values), np.zeros_like(values), x.shape[1]
    before, after = response_window(node)
    for away in range(max(-before, 1 - channels), min(after, channels - 1) + 1):
        seen = slice(max(0, away), channels + min(0, away))
        own = slice(max(0, -away), channels - max(0, away))
        sums[:, own] += squares[:, seen]
    alpha, beta, bias = (
        np.asarray(node.get(name, default), values.dtype)
        for name, default in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))
    )
    return (np.asarray(values / (bias + alpha / node.get("size") * sums) ** beta, x.dtype),)


OPERATORS = (
    Operator(
        "BatchNormalization", _infer_batch, _batch,
        frozenset({"epsilon", "momentum", "training_mode"}),
    ),
    Operator("InstanceNormalization", _infer_instance, _instance, frozenset({"epsilon"})),
    Operator(
        "GroupNormalization", _infer_group, _group,
        frozenset({"epsilon", "num_groups", "stash_type"}),
    ),
    Operator(
        "LayerNormalization", _infer_layer, _layer, frozenset({"axis", "epsilon", "stash_type"})
    ),
    Operator("LRN", _infer_response, _response, frozenset({"alpha", "beta", "bias", "size"})),
    Operator("RMSNormalization", _infer_rms, _rms, frozenset({"axis", "epsilon", "stash_type"})),
)  # fmt: skip
