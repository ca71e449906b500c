"""What never decreases goes before a max pool; what may decrease stays behind it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import onnx_models as om
from secateur.compiler import interpreter, passes
from secateur.compiler.graph import Graph
from secateur.compiler.passes import fold, pooled, verify

F32 = np.float32
SHAPES = {"scale": (5, 1, 1), "shift": (5, 1, 1), "gamma": (5,), "beta": (5,), "mean": (5,)}
STEPS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "norm": ("BatchNormalization", {}, ("gamma", "beta", "mean", "variance")),
    "relu": ("Relu", {}, ()),
    "leaky": ("LeakyRelu", {"alpha": 0.1}, ()),
    "clip": ("Clip", {}, ("low", "high")),
    "mul": ("Mul", {}, ("scale",)),
    "add": ("Add", {}, ("shift",)),
    "div": ("Div", {}, ("scale",)),
    "sub": ("Sub", {}, ("shift",)),
}


def constants(seed: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed).standard_normal
    made = {name: draw(shape).astype(F32) for name, shape in SHAPES.items()}
    for name in ("scale", "gamma"):
        made[name] = np.abs(made[name]) + F32(0.1)
    made |= {"variance": np.full(5, 0.7, F32), "low": F32(-0.5), "high": F32(1.5)}
    return made | {"w": draw((5, 3, 3, 3)).astype(F32), "plane": draw((1, 1, 4, 4)).astype(F32)}


def network(steps: list[str], outputs: str = "y", **changed: np.ndarray) -> Graph:
    """A convolution, a max pool and some steps."""
    nodes = [
        om.node("Conv", "x w", "c", pads=[1, 1, 1, 1]),
        om.node("MaxPool", "c", "v0", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    ]
    for k, name in enumerate(steps, 1):
        op, attributes, others = STEPS[name]
        made = "y" if k == len(steps) else f"v{k}"
        nodes.append(om.node(op, " ".join((f"v{k - 1}", *others)), made, **attributes))
    arrays = {
        name: array
        for name, array in (constants() | changed).items()
        if any(name in node.input for node in nodes)
    }
    return fold.run(om.read(om.model(nodes, {"x": [2, 3, 8, 8]}, outputs, arrays)))


def moved(graph: Graph) -> list[str]:
    """Run the pass, check that not a bit changes, and return the operators in order."""
    inputs = om.inputs_for(graph)
    after = pooled.run(graph)
    verify.check(after)
    found = interpreter.run(after, inputs)
    for name, wanted in interpreter.run(graph, inputs).items():
        np.testing.assert_array_equal(found[name], wanted)
    return [node.op for node in after.nodes]


@given(st.lists(st.sampled_from([*STEPS]), min_size=1, max_size=5))
def test_steps_move_before_the_pool_and_not_a_bit_changes(steps: list[str]) -> None:
    assert moved(network(steps)) == ["Conv", *(STEPS[name][0] for name in steps), "MaxPool"]


def test_a_layer_takes_in_what_stood_behind_its_pool() -> None:
    ops = [node.op for node in passes.in_floats(network(["norm", "relu"])).nodes]
    assert ops == ["FusedConv", "MaxPool"]


@pytest.mark.parametrize(
    ("steps", "changed"),
    [
        (["norm"], {"gamma": np.array([1, 1, -1, 1, 1], F32)}),
        (["mul"], {"scale": np.array([1, 1, 0, 1, 1], F32).reshape(5, 1, 1)}),
        (["div"], {"scale": -constants()["scale"]}),
        (["mul"], {"scale": np.abs(constants()["plane"])}),  # differs from place to place
        (["add"], {"shift": constants()["plane"]}),
        (["add"], {"shift": np.full((5, 1, 1), np.inf, F32)}),
        (["clip"], {"low": F32(np.nan)}),
    ],
)
def test_what_may_decrease_stays(steps: list[str], changed: dict[str, np.ndarray]) -> None:
    assert moved(network(steps, **changed))[1] == "MaxPool"


def test_what_others_read_stays() -> None:
    assert moved(network(["norm", "relu"], outputs="v0 y")) == [
        *("Conv", "MaxPool", "BatchNormalization", "Relu")
    ]
    assert moved(network(["norm", "relu"], outputs="v1 y")) == [
        *("Conv", "BatchNormalization", "MaxPool", "Relu")
    ]


def test_a_value_that_meets_itself_stays() -> None:
    for op in ("Mul", "Add", "Sub", "Div"):
        model = om.model(
            [
                om.node("Conv", "x w", "c", pads=[1, 1, 1, 1]),
                om.node("MaxPool", "c", "y", kernel_shape=[2, 2]),
                om.node(op, "y y", "z"),
            ],
            {"x": [2, 3, 8, 8]},
            "z",
            {"w": constants()["w"]},
        )
        graph = fold.run(om.read(model))
        assert moved(graph) == ["Conv", "MaxPool", op]


def test_a_pool_of_no_layer_stays() -> None:
    nodes = [
        om.node("MaxPool", "x", "p", kernel_shape=[2, 2]),
        om.node("Relu", "p", "y"),
    ]
    graph = fold.run(om.read(om.model(nodes, {"x": [2, 3, 8, 8]}, "y", {})))
    assert moved(graph) == ["MaxPool", "Relu"]
