"""Kernels that pick and place elements by numbers of the run, against their numpy references."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kernel_cases import RNG, drawn, extents, normal, values
from kernel_harness import Case, Known, check, integers, machine, samples_of


def indices(least: int, most: int, *shape: int, dtype: str = "int64") -> np.ndarray:
    """Return samples of indices from `least` to `most`, the latter left out."""
    return RNG.integers(least, most, (samples_of(machine()), *shape)).astype(dtype)


@st.composite
def chosen(draw: st.DrawFn) -> Case:
    via = draw(st.sampled_from(["", "tokens", "plane"]))
    rank = {"tokens": 2, "plane": 3}.get(via) or draw(st.integers(1, 3))
    shape = [draw(extents) for _ in range(rank)]
    dtype = draw(st.sampled_from(["float32"] if via else ["float32", "int64", "float64", "uint8"]))
    x, axis = values(dtype, *shape), draw(st.integers(1, rank))
    if x.dtype.kind == "f" and draw(st.booleans()):
        x = np.round(x)  # many are equal
        x[RNG.random(x.shape) < 0.1] = np.nan
    attributes = {"axis": axis, "largest": draw(st.integers(0, 1))}
    outputs = draw(st.sampled_from([(True, True), (True,), (False, True)]))
    count = draw(st.integers(0, shape[axis - 1]))
    return Case("TopK", [x, integers(count)], attributes, via, outputs)


@drawn
@given(st.lists(chosen(), min_size=40, max_size=40))
def test_the_largest_and_the_smallest(cases: list[Case]) -> None:
    check(cases)


@st.composite
def sampled(draw: st.DrawFn) -> Case:
    rank = draw(st.sampled_from([1, 2, 2, 2, 3]))
    shape, places = ([draw(st.integers(1, 6)) for _ in range(rank)] for _ in range(2))
    attributes = {
        "mode": draw(st.sampled_from(["linear", "nearest", "cubic"])),
        "padding_mode": draw(st.sampled_from(["zeros", "border", "reflection"])),
        "align_corners": draw(st.integers(0, 1)),
    }
    dtype = draw(st.sampled_from(["float32", "float64"]))
    x = values(dtype, draw(st.integers(1, 5)), *shape)
    grid = values(dtype, *places, rank, low=-2.5, high=2.5)
    return Case("GridSample", [x, grid], attributes)


@drawn
@given(st.lists(sampled(), min_size=40, max_size=40))
def test_between_pixels(cases: list[Case]) -> None:
    check(cases)


def test_responses() -> None:
    cases = []
    for size in (1, 2, 5, 20):
        for via, shape in (("", (7,)), ("", (7, 3, 5)), ("plane", (6, 9, 7))):
            cases.append(Case("LRN", [normal(*shape) * 9], {"size": size, "alpha": 0.1}, via=via))
    for beta in (0.3, 0.5, 1.0):
        attributes = {"size": 3, "alpha": 0.5, "beta": beta, "bias": 2.0}
        cases.append(Case("LRN", [values("float64", 7, 3, 5)], attributes))
    check(cases)


def test_elements_placed() -> None:
    cases = []
    for reduction in ("none", "add", "mul", "max", "min"):
        for dtype in ("float32", "float64", "int64", "int32", "uint8"):
            inputs = [values(dtype, 4, 7, low=0), indices(-7, 7, 4, 9), values(dtype, 4, 9, low=0)]
            cases.append(
                Case("ScatterElements", inputs, {"axis": 2, "reduction": reduction}, tolerance=1e-4)
            )
    inputs = [normal(6, 9, 7), indices(0, 6, 3, 2, 5, dtype="int32"), normal(3, 2, 5)]
    cases.append(Case("ScatterElements", inputs, {"axis": 1}, via="plane"))
    inputs = [values("bool", 5), indices(0, 5, 3), values("bool", 3)]
    cases.append(Case("ScatterElements", inputs, {"axis": 1}))
    for batch in (1, 2):
        inputs = [normal(4, 3, 5, 6), indices(-3, 3, 4, 7, 2 if batch == 2 else 1)]
        if batch == 2:
            cases.append(Case("GatherND", inputs, {"batch_dims": batch}))
        else:
            cases.append(Case("GatherND", inputs, {"batch_dims": batch}, via="plane"))
    cases.append(Case("OneHot", [indices(-9, 9, 5), integers(7), Known(np.array([2.0, 5.0]))]))
    cases.append(Case("Hardmax", [normal(5, 9)], {"axis": 1}))
    lengths = indices(0, 8)
    cases.append(
        Case("ReverseSequence", [normal(7, 3), lengths], {"time_axis": 1, "batch_axis": 0})
    )
    check(cases)
