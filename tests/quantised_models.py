"""Small QDQ models, as ONNX files: a layer between levels, and what may be odd about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

import onnx_models as om
from secateur.compiler import passes, pipeline


def around(value: str, scale: str, zero: str, number: str) -> list[onnx.NodeProto]:
    """Quantise a value and dequantise it: what is read on is `number`."""
    levels = f"{number}_q"
    return [
        om.node("QuantizeLinear", f"{value} {scale} {zero}", levels),
        om.node("DequantizeLinear", f"{levels} {scale} {zero}", number),
    ]


def model(
    layers: Sequence[onnx.NodeProto],
    shape: Sequence[int],
    constants: Mapping[str, np.ndarray] = {},
    *,
    grid: tuple[Any, Any] = (np.float32(0.02), np.uint8(117)),
    out: tuple[Any, Any] = (np.float32(0.08), np.uint8(20)),
    axis: int = 0,
) -> onnx.ModelProto:
    """Put layers between levels: they read `d`, and give `c`; `w` of them is quantised."""
    nodes = around("x", "s", "z", "d")
    if "w" in constants:
        zero = " wz" if "wz" in constants else ""
        nodes.append(om.node("DequantizeLinear", f"w ws{zero}", "wf", axis=axis))
    nodes += [*layers, *around("c", "t", "v", "y")]
    known = {"s": grid[0], "z": grid[1], "t": out[0], "v": out[1], **constants}
    return om.model(nodes, {"x": ["N", *shape]}, constants=known)


def whole(*shape: int, seed: int = 0) -> np.ndarray:
    """Draw weights of int8, with both ends."""
    w = np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)
    w.flat[:2] = -128, 127
    return w


def operators(proto: onnx.ModelProto) -> Counter[str]:
    """Count what a model becomes."""
    return Counter(node.op for node in passes.apply(om.read(proto)).nodes)


def steps_off(
    proto: onnx.ModelProto, x: np.ndarray, step: float, threads: int = 1
) -> tuple[float, float]:
    """Compare an engine with ONNX Runtime.

    Returns:
        The largest difference in steps of the output, and the share of outputs that differ.
    """
    (wanted,) = om.onnxruntime_gives(proto, {"x": x}).values()
    with pipeline.compile_network(proto.SerializeToString()).engine(threads) as engine:
        found = engine(x)
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    away = np.abs(found.astype(np.float64) - wanted) / step
    return float(away.max()), float((away > 0.01).mean())
