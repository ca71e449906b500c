"""Compiled resizes against the numpy references."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kernel_nets import F32, FEW, MACHINES, Build, Net, check, programs, several
from secateur.compiler.kernels import Machine


@st.composite
def resizes(draw: st.DrawFn) -> Build:
    rank = draw(st.integers(1, 3))
    plane = tuple(draw(st.integers(1, 9)) for _ in range(rank))
    mode = draw(st.sampled_from(["nearest", "linear", "cubic"]))
    transformation = draw(st.sampled_from([
        "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric",
        "tf_crop_and_resize", "tf_half_pixel_for_nn",
    ]))  # fmt: skip
    attributes: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": transformation}
    if mode == "nearest":
        attributes["nearest_mode"] = draw(st.sampled_from(
            ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]
        ))  # fmt: skip
    else:
        attributes["exclude_outside"] = draw(st.integers(0, 1))
    crop = transformation == "tf_crop_and_resize"
    if crop:
        attributes["extrapolation_value"] = 3.0
        attributes["exclude_outside"] = 0
    elif mode != "nearest":
        attributes["antialias"] = draw(st.integers(0, 1))
    sizes = tuple(draw(st.integers(1, 16)) for _ in range(rank))
    scales = tuple(draw(st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0])) for _ in range(rank))
    by_size = (
        crop or draw(st.booleans()) or any(n * s < 1 for n, s in zip(plane, scales, strict=True))
    )
    roi = tuple(draw(st.floats(-0.25, 0.5)) for _ in range(rank)) + (0.75,) * rank
    cut = draw(st.booleans())

    def build(net: Net) -> None:
        source = net.plane if cut else net.input
        area = net.constant(np.array(roi, F32)) if crop else ""
        factors = "" if by_size else net.constant(np.array(scales, F32))
        extents = net.constant(np.array(sizes)) if by_size else ""
        net.keep(net.add(
            "Resize", source(2, *plane), area, factors, extents,
            axes=tuple(range(2, 2 + rank)), **attributes,
        ))  # fmt: skip

    return build


class TestResizes:
    @FEW
    @given(several(resizes(), 10), MACHINES)
    def test_equal_their_reference(self, build: Build, machine: Machine | None) -> None:
        check(build, machine)

    def test_of_other_types(self) -> None:
        def build(net: Net) -> None:
            factors = net.constant(np.array((1, 1, 2, 1.5), F32))
            for dtype in ("uint8", "int64", "bool", "float64"):
                net.keep(net.add("Resize", net.input(2, 4, 6, dtype=dtype), "", factors))
            net.keep(
                net.add("Resize", net.input(2, 4, 6, dtype="float64"), "", factors, mode="linear")
            )

        check(build)

    def test_double_a_plane_without_moving_it_between_lanes(self) -> None:
        def build(net: Net) -> None:
            factors = net.constant(np.array((1, 1, 2, 2), F32))
            net.keep(net.add("Resize", net.plane(4, 16, 16), "", factors))

        network, _ = programs(build, Machine(16, 32), 1)
        steps = [step.node.op for step in network.programs[0].steps]
        assert steps == ["Relayout", "FusedConv", "Resize", "Relayout"]
