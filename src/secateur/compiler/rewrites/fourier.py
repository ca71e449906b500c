"""Discrete Fourier transforms, as products with the matrix of their sines and cosines.

Of n numbers they take n^2 steps, not n log n: as a layer, they have the kernels of layers.
"""

from __future__ import annotations

from math import pi

import numpy as np

from secateur.compiler.graph import Node, unsupported
from secateur.compiler.ops import Operand, rules
from secateur.compiler.rewrites import Builder

MOST = 2**25
"""Elements of such a matrix."""


def _parts(node: Node, x: Operand) -> int:
    """Return 1 for real numbers, 2 for complex ones, which have an axis at the end for it."""
    if len(x.shape) < 2 or x.shape[-1] not in (1, 2):
        raise unsupported(node, f"an input of shape {x.shape}; its last axis must be 1 or 2")
    return x.shape[-1]


def _matrix(
    node: Node, taken: int, made: int, length: int, parts: tuple[int, int], inverse: bool
) -> np.ndarray:
    """Return the matrix [taken * parts in, made * parts out] of a transform, float64.

    Args:
        node: for errors.
        taken, made: numbers in and out.
        length: of the transform.
        parts: 1 for real numbers, 2 for complex ones, in and out.
        inverse: back from the spectrum. Real numbers then come from one half of it.
    """
    if taken * made * parts[0] * parts[1] > MOST:
        raise unsupported(node, f"a transform of length {length}, which is too long for a matrix")
    # the angle is exact where whole turns are taken off before it is one
    turns = np.outer(np.arange(taken), np.arange(made)) % length
    cosine, sine = np.cos(2 * pi / length * turns), np.sin(2 * pi / length * turns)
    if inverse:
        cosine, sine = cosine / length, -sine / length
        if parts[1] == 1:  # what is not its own mirror image stands for two
            twice = np.where(np.arange(taken) * 2 % length == 0, 1.0, 2.0)[:, None]
            cosine, sine = cosine * twice, sine * twice
    of_real = np.stack([cosine, -sine], -1)  # to a real and an imaginary part
    of_imaginary = np.stack([sine, cosine], -1)
    every = np.stack([of_real, of_imaginary], 1)[:, : parts[0], :, : parts[1]]
    return np.ascontiguousarray(every.reshape(taken * parts[0], made * parts[1]))


def _transform(node: Node, build: Builder) -> tuple[str, ...]:
    operands = build.operands()
    rules.arity(node, operands, 1, 3)
    x = rules.operand(node, operands, 0, "input", rules.FLOATS)
    given = rules.optional(node, operands, 1, "dft_length", rules.INDICES)
    along = rules.optional(node, operands, 2, "axis", rules.INDICES)
    parts, rank = _parts(node, x), len(x.shape)
    axis = rules.axis(node, -2 if along is None else int(rules.scalar(node, along, "axis")), rank)
    half, inverse = bool(node.get("onesided", 0)), bool(node.get("inverse", 0))
    if axis == rank - 1 or (half and parts != 1 + inverse):
        raise unsupported(
            node, f"axis {axis} of {x.shape} with onesided={int(half)}, inverse={int(inverse)}"
        )
    length = 2 * (x.shape[axis] - 1) if half and inverse else x.shape[axis]
    if given is not None:
        length = int(rules.scalar(node, given, "dft_length"))
    if length < 1:
        raise unsupported(node, f"a transform of length {length}")
    most = length // 2 + 1 if half and inverse else length
    taken = min(most, x.shape[axis])  # what is missing is zero
    made = length // 2 + 1 if half and not inverse else length
    parts_out = 1 if half and inverse else 2
    matrix = _matrix(node, taken, made, length, (parts, parts_out), inverse)
    numbers = (build.constant([k], np.int64) for k in (0, taken, axis))
    kept = build.add("Slice", node.inputs[0], *numbers)
    order = (*(a for a in range(rank - 1) if a != axis), axis, rank - 1)
    lines = build.add("Transpose", kept, perm=order)
    before = build.shape(lines)[:-2]
    flat = build.reshape(lines, (*before, taken * parts))
    product = build.add("MatMul", flat, build.constant(matrix, x.dtype))
    result = build.reshape(product, (*before, made, parts_out))
    return (build.add("Transpose", result, perm=tuple(map(order.index, range(rank)))),)


def _windows(node: Node, build: Builder) -> tuple[str, ...]:
    """A convolution with the matrix, each window of the signal being a position."""
    operands = build.operands()
    rules.arity(node, operands, 2, 4)
    x = rules.operand(node, operands, 0, "signal", rules.FLOATS)
    step = int(rules.scalar(node, rules.operand(node, operands, 1, "frame_step"), "frame_step"))
    window = rules.optional(node, operands, 2, "window", rules.FLOATS)
    given = rules.optional(node, operands, 3, "frame_length", rules.INDICES)
    source = node.inputs[0]
    if len(x.shape) == 2:  # torch's older exporter leaves out the axis of the parts
        source = build.reshape(source, (*x.shape, 1))
        x = build.operand(source)
    if len(x.shape) != 3:
        raise unsupported(node, f"a signal of shape {x.shape}; it needs three axes")
    parts, half = _parts(node, x), bool(node.get("onesided", 1))
    length = x.shape[1] if window is None else window.shape[0]
    if given is not None:
        length = int(rules.scalar(node, given, "frame_length"))
    shaped = window is None or window.shape == (length,)
    if step < 1 or not 1 <= length <= x.shape[1] or not shaped or (half and parts == 2):
        raise unsupported(
            node,
            f"frames of {length}, {step} apart, of a signal of {x.shape}, onesided={int(half)}"
            + ("" if window is None else f", with a window of {window.shape}"),
        )
    made = length // 2 + 1 if half else length
    matrix = _matrix(node, length, made, length, (parts, 2), inverse=False)
    matrix = matrix.reshape(length, parts, 2 * made)
    if window is not None:
        shape = rules.constant(node, window, "window").astype(np.float64)
        matrix = matrix * shape[:, None, None]
    kernels = build.constant(matrix.transpose(2, 1, 0), x.dtype)  # [2 * made, parts, length]
    signal = build.add("Transpose", source, perm=(0, 2, 1))
    found = build.add("Conv", signal, kernels, kernel_shape=(length,), strides=(step,))
    frames = build.shape(found)[2]
    apart = build.reshape(found, (x.shape[0], made, 2, frames))
    return (build.add("Transpose", apart, perm=(0, 3, 1, 2)),)


REWRITES = {"DFT": _transform, "STFT": _windows}
