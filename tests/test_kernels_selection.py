"""Kernels that choose, repeat and place entries, against their numpy references."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kernel_cases import RNG, drawn, extents, normal, possible, values, weights
from kernel_harness import Case, Known, build, check, integers, machine, samples_of
from secateur.compiler import pipeline


@st.composite
def selections(draw: st.DrawFn) -> Case:  # noqa: PLR0911
    via = draw(st.sampled_from(["", "tokens", "plane"]))
    rank = {"tokens": 2, "plane": 3}.get(via) or draw(st.integers(1, 4))
    shape = [draw(st.one_of(extents, st.integers(1, 20))) for _ in range(rank)]
    dtype = draw(st.sampled_from(["float32"] if via else ["float32", "int64", "float64", "bool"]))
    x, axis = values(dtype, *shape), draw(st.integers(1, rank))
    n = shape[axis - 1]
    op = draw(
        st.sampled_from(
            ["Slice", "Slice", "Split", "Concat", "Tile", "Expand", "Pad", "Pad", "Gather", "Depth"]
        )
    )
    match op:
        case "Slice":
            step = draw(st.sampled_from([1, 1, 2, 3, -1, -2]))
            start, end = sorted((draw(st.integers(0, n - 1)), draw(st.integers(1, n))))
            end += end == start
            start, end = (start, end) if step > 0 else (end - 1, start - 1 - shape[axis - 1])
            inputs = [x, integers(start), integers(end), integers(axis), integers(step)]
            return Case(op, inputs, via=via)
        case "Split":
            sizes = [draw(st.integers(1, 5)) for _ in range(draw(st.integers(1, 4)))]
            shape[axis - 1] = sum(sizes)
            asked = tuple(draw(st.booleans()) for _ in sizes[1:])
            outputs = (*asked, True)
            return Case(op, [values(dtype, *shape), integers(*sizes)], {"axis": axis}, via, outputs)
        case "Concat":
            parts = [x]
            for _ in range(draw(st.integers(0, 2))):
                shape[axis - 1] = draw(extents)
                parts.append(values(dtype, *shape))
            return Case(op, parts, {"axis": axis}, via=via)
        case "Tile":
            return Case(op, [x, integers(1, *(draw(st.integers(1, 3)) for _ in shape))], via=via)
        case "Expand":
            ones = [1 if draw(st.booleans()) else e for e in shape]
            target = Known(lambda batch: np.array([batch, *shape]))
            return Case(op, [values(dtype, *ones), target], via=via)
        case "Pad":
            mode = draw(st.sampled_from(["constant", "edge", "reflect", "wrap"]))
            most = n - 1 if mode == "reflect" else 5
            before, after = draw(st.integers(0, most)), draw(st.integers(0, most))
            if mode == "constant" and n > 2:
                before -= draw(st.integers(0, before + (n - 1) // 2))
            fill = Known(np.array(3, dtype)) if mode == "constant" and draw(st.booleans()) else None
            return Case(op, [x, integers(before, after), fill, integers(axis)], {"mode": mode}, via)
        case "Gather":
            picked = RNG.integers(-n, n, draw(st.sampled_from([(), (1,), (5,), (2, 3)])))
            return Case(op, [x, Known(picked)], {"axis": axis}, via=via)
        case _:
            side = draw(st.integers(1, 3))
            if draw(st.booleans()):
                x = values("float32", side * side * draw(st.integers(1, 3)), draw(extents), 5)
                name = "DepthToSpace"
            else:
                x = values("float32", 2, side * draw(extents), side * 4)
                name = "SpaceToDepth"
            mode = draw(st.sampled_from(["DCR", "CRD"]))
            through = draw(st.sampled_from(["", "plane"]))
            return Case(name, [x], {"blocksize": side, "mode": mode}, via=through)


@drawn
@given(st.lists(selections(), min_size=60, max_size=60))
def test_selections(cases: list[Case]) -> None:
    check(cases)


def test_pads_of_several_axes() -> None:
    cases = []
    for mode in ("constant", "edge", "reflect", "wrap"):
        for via in ("", "plane"):
            inputs = [normal(6, 9, 7), integers(0, 0, 1, 2, 0, 0, 3, 2)]
            cases.append(Case("Pad", inputs, {"mode": mode}, via=via))
            inputs = [normal(6, 9, 7), integers(-1, 3, 2, -2), None, integers(2, -1)]
            cases.append(Case("Pad", inputs, {"mode": mode}, via=via))
    check(cases)


def test_indices_of_the_run() -> None:
    def indices(most: int, *shape: int, dtype: str = "int64") -> np.ndarray:
        all_ = (samples_of(machine()), *shape)
        return RNG.integers(-most, most, all_).astype(dtype)

    rows = samples_of(machine())
    cases = [
        Case("Gather", [Known(values(dtype, 37)), indices(rows, 11)], {"axis": 0})
        for dtype in ("float32", "float64", "int64", "bool")
    ]
    for table in ((20,), (20, 1), (20, 4, 9), (20, 16), (20, 40)):
        picked = indices(20, 3, dtype="int32")
        cases.append(Case("Gather", [weights(*table), picked], {"axis": 0}))
    cases.append(Case("Gather", [weights(20, 7), indices(20, dtype="int32")], {"axis": 0}))
    for via in ("", "plane"):
        for axis, shape in ((2, (6, 9, 7)), (1, (11, 9, 7)), (2, (6, 11, 3)), (3, (2, 9, 7))):
            inputs = [normal(6, 9, 7), indices((6, 9, 7)[axis - 1], *shape)]
            cases.append(Case("GatherElements", inputs, {"axis": axis}, via=via))
        for upper in (0, 1):
            for k in (-9, -1, 0, 2, 50):
                inputs = [normal(3, 9, 17), Known(np.array(k))]
                cases.append(Case("Trilu", inputs, {"upper": upper}, via=via))
    check(possible(cases))


def test_a_table_is_stored_once() -> None:
    table = np.zeros((1000, 8), np.float32)
    table[:] = np.arange(8000).reshape(table.shape)
    cases = [Case("Gather", [Known(table), values("int64", 5, low=0)], {"axis": 0})]
    built = build(cases)
    built.engine.close()
    assert len(pipeline.source_of(built.network, "table").stored) < 1.1 * table.nbytes
