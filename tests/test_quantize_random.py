"""Random networks: quantised, they are accepted by ONNX's checker and give what was planned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import checker

import onnx_models as om
import secateur
from secateur.errors import CompileError

CHANNELS = 4
STEPS = (
    "Conv", "Conv depthwise", "Relu", "Clip", "Sigmoid", "Silu", "HardSwish", "MaxPool", "Add",
    "Add layers", "Concat", "Transpose", "Softmax", "Mul", "Scale", "AveragePool", "Pad", "Split",
)  # fmt: skip


class Drawn:
    """A network as it grows; all its values have one shape."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {
            "low": np.array(0, np.float32),
            "high": np.array(2, np.float32),
            "gain": self.rng.standard_normal((CHANNELS, 1, 1)).astype(np.float32),
            "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
        }
        self.values = ["x"]

    def put(self, op: str, inputs: str, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(om.node(op, inputs, name, **attributes))
        return name

    def conv(self, value: str, size: int = 3, groups: int = 1, inputs: int = CHANNELS) -> str:
        weight = f"w{len(self.nodes)}"
        shape = (CHANNELS, inputs // groups, size, size)
        drawn = self.rng.standard_normal(shape) / (inputs * size * size / groups) ** 0.5
        self.constants[weight] = np.where(self.rng.random(shape) < 0.3, 0, drawn).astype("f4")
        pads = [size // 2] * 4
        return self.put("Conv", f"{value} {weight}", pads=pads, group=groups)

    def step(self, kind: str, first: int, second: int) -> None:
        a, b = (self.values[k % len(self.values)] for k in (first, second))
        window: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1] * 4}
        makers: dict[str, Callable[[], str]] = {
            "Conv": lambda: self.conv(a),
            "Conv depthwise": lambda: self.conv(a, groups=CHANNELS),
            "Clip": lambda: self.put("Clip", f"{a} low high"),
            "Silu": lambda: self.put("Mul", f"{a} {self.put('Sigmoid', a)}"),
            "MaxPool": lambda: self.put("MaxPool", a, **window),
            "AveragePool": lambda: self.put("AveragePool", a, **window),
            "Add": lambda: self.put("Add", f"{a} {b}"),
            "Add layers": lambda: self.put("Add", f"{self.conv(a)} {self.conv(b, 1)}"),
            "Concat": lambda: self.conv(
                self.put("Concat", f"{a} {b}", axis=1), 1, inputs=2 * CHANNELS
            ),
            "Transpose": lambda: self.put("Transpose", a, perm=[0, 1, 3, 2]),
            "Softmax": lambda: self.put("Softmax", a, axis=1),
            "Mul": lambda: self.put("Mul", f"{a} {self.put('Sigmoid', b)}"),
            "Scale": lambda: self.put("Mul", f"{a} gain"),
            "Pad": lambda: self.put("MaxPool", self.put("Pad", f"{a} pads"), kernel_shape=[3, 3]),
            "Split": lambda: self.swapped(a),
        }
        self.values.append(makers[kind]() if kind in makers else self.put(kind, a))

    def swapped(self, value: str) -> str:
        """Return a value with the halves of its channels swapped."""
        parts = [f"v{len(self.nodes)}{which}" for which in "ab"]
        self.nodes.append(om.node("Split", value, " ".join(parts), axis=1, num_outputs=2))
        return self.put("Concat", f"{parts[1]} {parts[0]}", axis=1)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from(STEPS), st.integers(0, 20), st.integers(0, 20)),
        min_size=1,
        max_size=9,
    ),
    st.integers(0, 5),
    st.booleans(),
)
def test_random_networks_give_what_was_planned(
    steps: list[tuple[str, int, int]], seed: int, two: bool
) -> None:
    drawn = Drawn(seed)
    for kind, first, second in steps:
        drawn.step(kind, len(drawn.values) - 1 - first % 2, second)
    outputs = ["y"]
    drawn.nodes.append(om.node("Identity", drawn.conv(drawn.values[-1], 1), "y"))
    if two and drawn.values[-1] != "x":
        outputs.append(drawn.values[-1])
    proto = om.model(drawn.nodes, {"x": ["N", CHANNELS, 6, 6]}, " ".join(outputs), drawn.constants)
    data = np.random.default_rng(seed).standard_normal((6, CHANNELS, 6, 6)).astype(np.float32)
    made = secateur.quantize(proto, data)
    model = onnx.load_from_string(made.content)
    checker.check_model(model, full_check=True)
    assert len(made.int8) == len(made.rows) >= 1
    assert made.error < 0.25
    wanted = om.onnxruntime_gives(proto, {"x": data})
    for count in (1, 6):
        found = om.onnxruntime_gives(model, {"x": data[:count]})
        assert list(found) == list(wanted)
        for name, array in wanted.items():
            scale = max(float(np.abs(array).max()), 1e-6)
            off = np.sqrt(np.mean((found[name] - array[:count]) ** 2)) / scale
            assert off < 0.12, (name, off)


def test_a_random_network_may_have_no_layer() -> None:
    drawn = Drawn(0)
    drawn.step("Softmax", 0, 0)
    proto = om.model(drawn.nodes, {"x": ["N", CHANNELS, 6, 6]}, drawn.values[-1], drawn.constants)
    with pytest.raises(CompileError, match="no layer that can be quantised"):
        secateur.quantize(proto, np.ones((2, CHANNELS, 6, 6), np.float32))
