"""Boxes that cover one another: what is left of them, and how many rows go on to the outputs."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import onnx_models as om
import secateur
from operator_harness import ours, refused, theirs

MOST, CLASSES, BOXES = 7, 3, 20


def boxes_of(seed: int, *, batch: int = 2, even: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes and scores; `even`: of few sizes and scores, so that many are equal."""
    rng = np.random.default_rng(seed)
    boxes = rng.uniform(0, 10, (batch, BOXES, 4)).astype(np.float32)
    scores = rng.random((batch, CLASSES, BOXES)).astype(np.float32)
    return (np.round(boxes), np.round(scores * 4) / 4) if even else (boxes, scores)


def same(found: np.ndarray, wanted: np.ndarray) -> None:
    """Compare rows: first those that ONNX Runtime gives, then unused ones."""
    np.testing.assert_array_equal(found[: len(wanted)], wanted)
    assert (found[len(wanted) :] == -1).all()


@pytest.mark.parametrize("most", [0, 3, 50, 2**62])
@pytest.mark.parametrize("centred", [0, 1])
def test_equals_onnxruntime(most: int, centred: int) -> None:
    thresholds: list[tuple[Any, ...]] = [
        (),
        (np.float32(0.3),),
        (np.float32(0.5), np.float32(0.25)),
        (np.zeros(1, np.float32), np.full(1, 0.5, np.float32)),
    ]
    for seed in range(4):
        for more in thresholds:
            arrays = (*boxes_of(seed, even=seed % 2 == 1), np.array([most]), *map(np.array, more))
            (found,) = ours("NonMaxSuppression", *arrays, center_point_box=centred)
            (wanted,) = theirs("NonMaxSuppression", *arrays, center_point_box=centred)
            assert len(found) == 2 * CLASSES * min(most, BOXES)
            same(found, wanted)


def suppressing(
    more: list[onnx.NodeProto] | None = None,
    outputs: str = "rows",
    batch: int | str = 2,
    **constants: Any,
) -> onnx.ModelProto:
    """Return a model that suppresses boxes, and what goes on with the rows that are left."""
    known = {"m": [MOST], "i": np.float32([0.4]), "t": np.float32([0.2]), **constants}
    return om.model(
        [om.node("NonMaxSuppression", "b s m i t", "rows"), *(more or [])],
        {"b": [batch, BOXES, 4], "s": [batch, CLASSES, BOXES]},
        outputs,
        {name: np.asarray(value) for name, value in known.items()},
    )


@cache
def compiled(centred: int) -> secateur.Engine:
    node = om.node("NonMaxSuppression", "b s m i t", "rows", center_point_box=centred)
    proto = suppressing()
    proto.graph.node[0].CopyFrom(node)
    return secateur.compile(proto)


@given(st.integers(0, 2**31), st.booleans(), st.sampled_from([0, 1]))
def test_engines_give_what_the_reference_gives(seed: int, even: bool, centred: int) -> None:
    boxes, scores = boxes_of(seed, even=even)
    known = np.array(MOST), np.float32(0.4), np.float32(0.2)
    (wanted,) = ours(
        "NonMaxSuppression", boxes, scores, *map(np.asarray, known), center_point_box=centred
    )
    np.testing.assert_array_equal(compiled(centred)(boxes, scores), wanted)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none(value: float) -> None:
    boxes, scores = boxes_of(1)
    boxes[0, 3], scores[0, 1, 5], scores[1, 2] = value, value, value
    found = compiled(0)(boxes, scores)
    assert found.min() >= -1
    assert (found.max(0) < [2, CLASSES, BOXES]).all()


def after_rows() -> list[onnx.NodeProto]:
    """Return what detectors do with rows: boxes, classes and scores of each, side by side."""
    return [
        om.node("Gather", "rows two", "place", axis=1),
        om.node("Gather", "rows zero", "image", axis=1),
        om.node("Unsqueeze", "image one", "column"),
        om.node("Slice", "rows one two_ one", "class"),
        om.node("Gather", "first place", "corners", axis=0),
        om.node("Mul", "corners scale", "scaled"),
        om.node("GatherND", "s rows", "score"),
        om.node("Reshape", "score tall", "scores"),
        om.node("Cast", "column", "image_", to=1),
        om.node("Cast", "class", "class_", to=1),
        om.node("Concat", "image_ class_ scores scaled", "found", axis=1),
    ]


KNOWN = {
    "two": 2, "zero": 0, "one": [1], "two_": [2], "scale": np.float32([2, 2, 2, 2]),
    "tall": [-1, 1],
}  # fmt: skip


def test_rows_go_on_one_by_one() -> None:
    more = [om.node("Squeeze", "b no", "first"), *after_rows()]
    proto = suppressing(more, "found rows", batch=1, no=[0], **KNOWN)
    with secateur.compile(proto) as engine:
        for seed in range(3):
            boxes, scores = boxes_of(seed, batch=1)
            wanted = om.onnxruntime_gives(proto, {"b": boxes, "s": scores})
            found, rows = engine(boxes, scores)
            same(rows, wanted["rows"])
            used = rows[:, 0] >= 0
            np.testing.assert_allclose(found[used], wanted["found"], rtol=1e-6)
            assert (found[~used, 0] == -1).all()


def test_an_output_must_say_which_rows_are_there() -> None:
    more = [om.node("Squeeze", "b no", "first"), *after_rows()[:1]]
    more += [om.node("Gather", "first place", "corners", axis=0)]
    match = r"which rows of output 'corners' are there; make 'rows' an output of the model, too"
    om.refused_compiled(suppressing(more, "corners", batch=1, no=[0], two=2), match)
    om.read(suppressing(more, "corners rows", batch=1, no=[0], two=2))


@pytest.mark.parametrize(
    "node",
    [
        om.node("Shape", "rows", "y"),
        om.node("ReduceMax", "rows no", "y"),
        om.node("ReduceMax", "rows", "y"),
        om.node("TopK", "rows one", "y z", axis=0),
        om.node("Gather", "rows no", "y", axis=0),
        om.node("Slice", "rows one many no", "y"),
        om.node("Concat", "rows rows", "y", axis=0),
        om.node("Transpose", "rows", "y"),
        om.node("Reshape", "rows flat", "y"),
        om.node("Split", "rows", "y z", num_outputs=2),
        om.node("CumSum", "rows zero", "y"),
    ],
    ids=lambda node: node.op_type,
)
def test_rows_must_not_meet(node: onnx.NodeProto) -> None:
    known = {"no": [0], "one": [1], "many": [99], "flat": [-1], "zero": 0}
    if node.op_type == "Transpose":  # rows may lie along any axis, and be summed along no other
        node = om.node("MatMul", "turned w", "y")
        before = [om.node("Cast", "rows", "f", to=1), om.node("Transpose", "f", "turned")]
        proto = suppressing([*before, node], "y", w=np.ones((2 * CLASSES * MOST, 1), np.float32))
    else:
        proto = suppressing([node], "y", **known)
    om.refused_compiled(proto, rf"{node.op_type} 'n_y' .*the rows that NonMaxSuppression 'n_rows'")


def test_images_whose_number_is_free_are_refused() -> None:
    om.refused_compiled(suppressing(batch="N"), r"samples of a batch meet.*fix the batch")


def test_refuses() -> None:
    boxes, scores = boxes_of(1)
    most = np.array(3)
    refused("NonMaxSuppression", boxes, scores[0], most, match=r"scores of \(3, 20\)")
    refused("NonMaxSuppression", boxes[:1], scores, most, match=r"boxes of shape \(1, 20, 4\)")
    refused("NonMaxSuppression", boxes, scores, most, center_point_box=2, match="center_point_box")
    two = np.zeros(2, np.float32)
    refused("NonMaxSuppression", boxes, scores, most, two, match="iou_threshold has shape")
    unknown = om.model(
        [om.node("NonMaxSuppression", "b s m", "y")],
        [om.value("b", [1, 5, 4]), om.value("s", [1, 2, 5]), om.value("m", [1], np.int64)],
    )
    om.refused_compiled(unknown, "max_output_boxes_per_class is not constant.*--input-value m")
