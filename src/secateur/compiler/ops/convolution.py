"""Convolution and its transpose, and the geometry of windows that pooling shares with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np

from secateur.compiler.graph import Node, Tensor, unsupported
from secateur.compiler.ops import Arrays, Operand, Operator, rules
from secateur.compiler.ops.rules import FLOATS, LIMIT, Operands

Index = tuple[Any, ...]

MOST_PADDED = 2**24
"""Elements of a padded channel, where the padding is more than the input: it can be any number."""


@dataclass(frozen=True)
class Window:
    """A kernel sliding over the spatial axes; every field has one entry an axis.

    Attributes:
        kernel, strides, dilations: as ONNX has them.
        before, after: padding, resolved from `pads` or `auto_pad`.
        outputs: how many positions the kernel takes.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def reach(self) -> tuple[int, ...]:
        """How many input positions a dilated kernel spans."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    def taps(self) -> Iterator[tuple[Index, Index]]:
        """Yield each kernel position and what it sees of the padded input, as numpy indices."""
        for tap in product(*(range(k) for k in self.kernel)):
            seen = [
                slice(t * d, t * d + (n - 1) * s + 1, s)
                for t, d, n, s in zip(tap, self.dilations, self.outputs, self.strides, strict=True)
            ]
            yield (..., *tap), (..., *seen)

    def pad(self, x: np.ndarray, value: Any = 0) -> np.ndarray:
        """Return x [N, C, *spatial] padded, far enough for the last window of `ceil_mode` too."""
        widths = [(0, 0), (0, 0)]
        for extent, before, after, reach, stride, n in zip(
            x.shape[2:], self.before, self.after, self.reach, self.strides, self.outputs,
            strict=True,
        ):  # fmt: skip
            widths.append((before, max(after, (n - 1) * stride + reach - extent - before)))
        return np.pad(x, widths, constant_values=value) if any(map(any, widths)) else x


def window(
    node: Node, spatial: Sequence[int], kernel: Sequence[int], *, ceil: bool = False
) -> Window:
    """Return the window of a Conv, FusedConv or pooling node.

    Args:
        node: its `pads`, `auto_pad`, `strides` and `dilations` are read.
        spatial: extents of the input's spatial axes.
        kernel: extents of the kernel.
        ceil: count a last window that is only partly over the padded input.

    Raises:
        CompileError: attributes that do not fit the axes, or no output position.
    """
    strides, dilations, pads = steps(node, kernel)
    before, after = list(pads[: len(kernel)]), list(pads[len(kernel) :])
    auto = automatic(node)
    outputs = []
    for i, extent in enumerate(spatial):
        reach, stride = (kernel[i] - 1) * dilations[i] + 1, strides[i]
        if auto.startswith("SAME"):
            total = max((-(-extent // stride) - 1) * stride + reach - extent, 0)
            small, large = total // 2, total - total // 2
            before[i], after[i] = (small, large) if auto == "SAME_UPPER" else (large, small)
        padded = extent + before[i] + after[i]
        count = (padded - reach) // stride + 1
        if ceil and (padded - reach) % stride and count * stride < extent + before[i]:
            count += 1  # a window that would start in the padding after the input does not count
        if count < 1:
            raise unsupported(
                node, f"a window of {reach} does not fit axis {i + 2}, {padded} long with padding"
            )
        outputs.append(count)
    padded_size = prod(map(sum, zip(spatial, before, after, strict=True)))
    if padded_size > min(LIMIT, max(MOST_PADDED, 4 * prod(spatial))):
        raise unsupported(node, f"an input of {padded_size} elements a channel with padding")
    return Window(
        tuple(kernel), strides, dilations, tuple(before), tuple(after), tuple(outputs)
    )  # fmt: skip


def steps(
    node: Node, kernel: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return the node's strides [n], dilations [n] and pads [2n], checked, with their defaults.

    Raises:
        CompileError: a length that is not that of the kernel, or a value that is too small.
    """
    n = len(kernel)
    values = []
    for name, length, least in (("strides", n, 1), ("dilations", n, 1), ("pads", 2 * n, 0)):
        value = tuple(node.get(name) or (least,) * length)
        if len(value) != length or min(value, default=least) < least:
            raise unsupported(node, f"{name}={value} for a kernel of {n} axes")
        values.append(value)
    if not 1 <= n <= 3 or min(kernel) < 1:
        raise unsupported(node, f"a kernel of shape {tuple(kernel)}")
    return values[0], values[1], values[2]


def automatic(node: Node) -> str:
    """Return the node's `auto_pad`: "" where padding is explicit, VALID being padding of 0."""
    auto = str(node.get("auto_pad", "NOTSET"))
    if auto not in {"NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"}:
        raise unsupported(node, f"auto_pad={auto}")
    if auto != "NOTSET" and any(node.get("pads") or ()):
        raise unsupported(node, f"both pads and auto_pad={auto}")
    return auto if auto.startswith("SAME") else ""


def filled(given: Sequence[Any], count: int) -> list[Any]:
    """Return a node's operands with None for each optional one that its end leaves out."""
    return [*given, *(None,) * (count - len(given))]


def wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype to compute in: at least float32."""
    return np.promote_types(dtype, np.float32)


def _operands(node: Node, operands: Operands) -> tuple[Operand, Operand, Operand | None]:
    rules.arity(node, operands, 2, 3)
    x = rules.operand(node, operands, 0, "X", FLOATS)
    w = rules.operand(node, operands, 1, "W", FLOATS)
    b = rules.optional(node, operands, 2, "B", FLOATS)
    rules.same_dtype(node, x, w, b)
    return x, w, b


def _infer_conv(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    x, w, b = _operands(node, operands)
    return (Tensor(x.dtype, conv_shape(node, x.shape, w.shape, b.shape if b else None)),)


def conv_shape(
    node: Node, x: tuple[int, ...], w: tuple[int, ...], b: tuple[int, ...] | None
) -> tuple[int, ...]:
    """Return the output's shape [N, M, *outputs] for shapes of x, w [M, C / group, *kernel], b.

    Raises:
        CompileError: the shapes do not fit together.
    """
    group = node.get("group", 1)
    fits = len(x) == len(w) and group >= 1 and x[1] == w[1] * group and w[0] % group == 0
    if not fits or 0 in w or b not in {None, w[:1]}:
        raise unsupported(node, f"input {x}, weight {w} and bias {b} in {group} groups")
    if tuple(node.get("kernel_shape") or w[2:]) != w[2:]:
        raise unsupported(node, f"kernel_shape={node.get('kernel_shape')} with weight {w}")
    return (x[0], w[0], *window(node, x[2:], w[2:]).outputs)


def convolve(node: Node, x: np.ndarray, w: np.ndarray, b: np.ndarray | None) -> np.ndarray:
    """Return the convolution in float32 or wider: one matrix product a kernel position.

    That needs one copy of the input and of the output, however large the kernel.

    Args:
        node: its window's attributes and `group` are read.
        x: [N, C, *spatial]. w: [M, C / group, *kernel]. b: [M] or None.
    """
    dtype, group = wide(x.dtype), node.get("group", 1)
    form = window(node, x.shape[2:], w.shape[2:])
    padded = form.pad(x.astype(dtype, copy=False))
    n, channels, outputs = len(x), w.shape[1], len(w) // group
    kernel = w.astype(dtype, copy=False).reshape(group, outputs, channels, *w.shape[2:])
    positions = int(np.prod(form.outputs))
    y = np.zeros((n, group, outputs, positions), dtype)
    for tap, seen in form.taps():
        part = padded[seen].reshape(n, group, channels, positions)
        v = kernel[tap]
        # A depthwise product is an outer one: numpy's matmul would call BLAS once a channel.
        y += v * part if channels == 1 else np.matmul(v, part)
    y = y.reshape(n, len(w), *form.outputs)
    if b is not None:
        y += b.astype(dtype, copy=False).reshape(-1, *(1,) * (x.ndim - 2))
    return y


@np.errstate(all="ignore")
def _conv(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x, w, b = filled(arrays, 3)
    return (convolve(node, x, w, b).astype(x.dtype, copy=False),)


def transposed(
    node: Node, spatial: Sequence[int], kernel: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return what a ConvTranspose cuts off before each spatial axis, and its output's extents.

    Input position i meets kernel position k at output position i * stride + k * dilation - cut.

    Raises:
        CompileError: attributes that do not fit the axes, or no output position.
    """
    strides, dilations, pads = steps(node, kernel)
    n, auto = len(kernel), automatic(node)
    extra = tuple(node.get("output_padding") or (0,) * n)
    wanted = node.get("output_shape")
    if auto and not wanted:
        wanted = [extent * stride for extent, stride in zip(spatial, strides, strict=True)]
    if len(extra) != n or min(extra) < 0 or (wanted and len(wanted) != n):
        raise unsupported(
            node, f"output_padding={extra} and output_shape={wanted} for a kernel of {n} axes"
        )
    cut, outputs = [], []
    for i, extent in enumerate(spatial):
        full = (extent - 1) * strides[i] + extra[i] + (kernel[i] - 1) * dilations[i] + 1
        if wanted:
            total = max(full - wanted[i], 0)
            cut.append(total // 2 if auto == "SAME_UPPER" else total - total // 2)
            outputs.append(wanted[i])
        else:
            cut.append(pads[i])
            outputs.append(full - pads[i] - pads[n + i])
        if outputs[i] < 1:
            raise unsupported(node, f"nothing is left of axis {i + 2} after padding is cut off")
    return tuple(cut), tuple(outputs)


def _infer_transpose(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    x, w, b = _operands(node, operands)
    group = node.get("group", 1)
    fits = len(x.shape) == len(w.shape) and group >= 1 and x.shape[1] == w.shape[0]
    if not fits or 0 in w.shape or w.shape[0] % group or (b and b.shape != (w.shape[1] * group,)):
        raise unsupported(
            node, f"input {x.shape}, weight {w.shape}, bias {b and b.shape} in {group} groups"
        )
    if tuple(node.get("kernel_shape") or w.shape[2:]) != w.shape[2:]:
        raise unsupported(node, f"kernel_shape={node.get('kernel_shape')} with weight {w.shape}")
    _, outputs = transposed(node, x.shape[2:], w.shape[2:])
    return (Tensor(x.dtype, (x.shape[0], w.shape[1] * group, *outputs)),)


@np.errstate(all="ignore")
def _conv_transpose(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x, w, b = filled(arrays, 3)
    dtype, group, kernel = wide(x.dtype), node.get("group", 1), w.shape[2:]
    strides, dilations, _ = steps(node, kernel)
    cut, outputs = transposed(node, x.shape[2:], kernel)
    n, outs = len(x), w.shape[1]
    # Wide enough for every product; the output is what is left after the cut, or 0 beyond.
    extents = [
        max((extent - 1) * s + (k - 1) * d + 1, c + out)
        for extent, s, k, d, c, out in zip(
            x.shape[2:], strides, kernel, dilations, cut, outputs, strict=True
        )
    ]
    y = np.zeros((n, group, outs, *extents), dtype)
    flat = x.astype(dtype, copy=False).reshape(n, group, len(w) // group, -1)
    weight = w.astype(dtype, copy=False).reshape(group, len(w) // group, outs, *kernel)
    for tap in product(*(range(k) for k in kernel)):
        where: Index = (
            ...,
            *(
                slice(t * d, t * d + (extent - 1) * s + 1, s)
                for t, d, s, extent in zip(tap, dilations, strides, x.shape[2:], strict=True)
            ),
        )
        part = np.matmul(weight[..., *tap].transpose(0, 2, 1), flat)
        y[where] += part.reshape(n, group, outs, *x.shape[2:])
    kept: Index = (..., *(slice(c, c + out) for c, out in zip(cut, outputs, strict=True)))
    y = y[kept].reshape(n, group * outs, *outputs)
    if b is not None:
        y = y + b.astype(dtype, copy=False).reshape(-1, *(1,) * (x.ndim - 2))
    return (y.astype(x.dtype, copy=False),)


_WINDOW = {"auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"}

OPERATORS = (
    Operator("Conv", _infer_conv, _conv, frozenset(_WINDOW)),
    Operator(
        "ConvTranspose",
        _infer_transpose,
        _conv_transpose,
        frozenset(_WINDOW | {"output_padding", "output_shape"}),
    ),
)
