"""Deep quantised networks are handed over though levels fall otherwise; wrong ones are not."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest

import onnx_models as om
from quantised_models import around, operators
from secateur.compiler import conditioning, passes, pipeline
from secateur.compiler.passes import integers
from secateur.errors import CompileError

F32 = np.float32
CHANNELS = 12


def deep(seed: int, depth: int) -> onnx.ModelProto:
    """Convolutions with biases of float32, Relu and residuals, as exporters of torch write them."""
    rng = np.random.default_rng(seed)
    nodes = around("x", "s0", "z0", "d0")
    known: dict[str, np.ndarray] = {"s0": np.asarray(F32(0.03)), "z0": np.asarray(np.uint8(120))}
    for k in range(1, depth + 1):
        w = rng.standard_normal((CHANNELS, CHANNELS, 3, 3)) / np.sqrt(9 * CHANNELS)
        step = np.abs(w).reshape(CHANNELS, -1).max(1) / 127
        known[f"w{k}"] = np.rint(w / step[:, None, None, None]).astype(np.int8)
        known[f"ws{k}"] = step.astype(F32)
        known[f"b{k}"] = (0.3 * rng.standard_normal(CHANNELS)).astype(F32)
        known[f"s{k}"], known[f"z{k}"] = np.asarray(F32(0.023)), np.asarray(np.uint8(128))
        nodes += [
            om.node("DequantizeLinear", f"w{k} ws{k}", f"wf{k}", axis=0),
            om.node("Conv", f"d{k - 1} wf{k} b{k}", f"c{k}", pads=[1, 1, 1, 1]),
            om.node("Add", f"c{k} d{k - 1}", f"a{k}")
            if k % 2
            else om.node("Tanh", f"c{k}", f"a{k}"),
            *around(f"a{k}", f"s{k}", f"z{k}", f"d{k}"),
        ]
    nodes += [om.node("Identity", f"d{depth}", "y")]
    return om.model(nodes, {"x": ["N", CHANNELS, 8, 8]}, constants=known)


@pytest.mark.parametrize("seed", [0, 1])
def test_deep_networks_with_biases_of_float32_are_handed_over(seed: int) -> None:
    proto = deep(seed, 9)
    assert operators(proto)["QuadConv"] == 9
    pipeline.compile_network(proto.SerializeToString())


def test_levels_that_are_wrong_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    proto = deep(0, 9).SerializeToString()
    right = integers._Walk._ends

    def wrong(walk: integers._Walk, node: om.Any, grid: om.Any) -> dict[str, int] | None:
        ends = right(walk, node, grid)
        return ends and ends | {"out_zero": ends["out_zero"] + 6}

    monkeypatch.setattr(integers._Walk, "_ends", wrong)
    with pytest.raises(CompileError, match="differs from the reference"):
        pipeline.compile_network(proto)


def test_an_unrounded_network_cuts_levels_off_but_does_not_round() -> None:
    graph = passes.in_floats(om.read(deep(0, 2)))
    plain = conditioning.unrounded(graph)
    found = Counter(node.op for node in plain.nodes)
    assert not found["Quantize"] + found["Dequantize"]
    assert found["Clip"] == 3
