"""Sequences of tensors are resolved; what is not known, or no tensor, is refused by name."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnx_models as om
from secateur.compiler import passes
from secateur.errors import CompileError


def test_stacking_and_picking_as_torch_exports_them() -> None:
    nodes = [
        om.node("SplitToSequence", "x", "s", axis=1, keepdims=0),
        om.node("SequenceAt", "s last", "a"),
        om.node("SequenceLength", "s", "n"),
        om.node("SequenceConstruct", "a b", "t"),
        om.node("Identity", "t", "same"),
        om.node("SequenceInsert", "same x0 first", "u"),
        om.node("SequenceErase", "u last", "v"),
        om.node("SequenceInsert", "v b", "w"),
        om.node("ConcatFromSequence", "w", "stacked", axis=0, new_axis=1),
        om.node("ConcatFromSequence", "w", "joined", axis=-1),
        om.node("SplitToSequence", "x two", "pairs", axis=1),
        om.node("SequenceAt", "pairs last", "rest"),
        om.node("SplitToSequence", "x uneven", "parts", axis=1),
        om.node("SequenceAt", "parts first", "part"),
    ]
    constants = {
        "last": np.array(-1), "first": np.array(0),
        "x0": np.ones(2, np.float32), "b": np.array([3, 4], np.float32),
        "two": np.array(2), "uneven": np.array([1, 4]),
    }  # fmt: skip
    proto = om.model(nodes, {"x": [2, 5]}, "n stacked joined rest part", constants)
    om.agrees(proto)


@pytest.mark.parametrize(
    ("nodes", "match"),
    [
        ([om.node("SequenceConstruct", "x x", "y")], "output 'y' of the model is a sequence"),
        (
            [om.node("SequenceConstruct", "x x", "s"), om.node("SequenceAt", "s i", "y")],
            "SequenceAt 'n_y' .* position is not constant",
        ),
        (
            [om.node("SequenceConstruct", "x x", "s"), om.node("SequenceAt", "s four", "y")],
            "position 4 of a sequence of 2",
        ),
        (
            [om.node("SequenceConstruct", "x x", "s"), om.node("Add", "x s", "y")],
            "Add 'n_y' .* an input is a sequence",
        ),
        ([om.node("SequenceAt", "x four", "y")], "SequenceAt 'n_y' .* do not fit together"),
        (
            [om.node("SequenceEmpty", "", "s"), om.node("ConcatFromSequence", "s", "y", axis=0)],
            "its sequence is empty",
        ),
    ],
)
def test_refuses(nodes: list[onnx.NodeProto], match: str) -> None:
    inputs = [om.value("x", [2]), om.value("i", [], np.int64)]
    proto = om.model(nodes, inputs, constants={"four": np.array(4)})
    with pytest.raises(CompileError, match=match):
        passes.apply(om.read(proto))
