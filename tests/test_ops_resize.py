"""What resizing means."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import pytest

import onnx_models as om
from operator_harness import agree, normal, ours, refused
from secateur.compiler import ops
from secateur.compiler.graph import Node
from secateur.compiler.kernels import Machine
from secateur.compiler.network import prepare
from secateur.compiler.ops import Operand
from secateur.errors import CompileError

NEAREST = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]
RESIZE_MODES = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]


class TestResize:
    @pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
    @pytest.mark.parametrize("transformation", [*RESIZE_MODES, "half_pixel_symmetric"])
    @pytest.mark.parametrize("size", [(10, 9), (3, 2), (1, 7)])
    def test_sizes(self, mode: str, transformation: str, size: tuple[int, int]) -> None:
        agree(
            "Resize", normal(1, 1, 2, 5, 6), None, None, np.array([1, 2, *size]),
            mode=mode, coordinate_transformation_mode=transformation,
        )  # fmt: skip

    @pytest.mark.parametrize("nearest", NEAREST)
    @pytest.mark.parametrize("transformation", RESIZE_MODES)
    def test_nearest_by_scales(self, nearest: str, transformation: str) -> None:
        agree(
            "Resize", normal(1, 1, 1, 4, 6), None, np.array([1, 1, 2, 0.5], np.float32),
            nearest_mode=nearest, coordinate_transformation_mode=transformation,
        )  # fmt: skip

    def test_scales_that_leave_a_fraction(self) -> None:
        for mode in ("linear", "cubic"):
            for transformation in ("half_pixel", "half_pixel_symmetric", "asymmetric"):
                agree(
                    "Resize", normal(1, 1, 1, 5, 7), None, np.array([1, 1, 1.3, 0.7], np.float32),
                    mode=mode, coordinate_transformation_mode=transformation,
                )  # fmt: skip

    def test_nearest_coordinates_are_exact(self) -> None:
        """49 / 3 as one float and back again would put a third of the rows one too early."""
        for rows in range(1, 40):
            (y,) = ours(
                "Resize", np.arange(rows, dtype=np.int32), None, None, np.array([7 * rows]),
                coordinate_transformation_mode="asymmetric", nearest_mode="floor",
            )  # fmt: skip
            np.testing.assert_array_equal(y, np.repeat(np.arange(rows), 7))

    def test_crop(self) -> None:
        roi = np.array([0, 0, 0.4, -0.2, 1, 1, 0.6, 1.3], np.float32)
        for mode in ("nearest", "linear", "cubic"):
            agree(
                "Resize", normal(1, 1, 2, 5, 6), roi, None, np.array([1, 2, 3, 9]), mode=mode,
                coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=10.0,
            )  # fmt: skip

    @pytest.mark.parametrize("policy", ["not_larger", "not_smaller"])
    def test_aspect_ratio_and_axes(self, policy: str) -> None:
        agree(
            "Resize", normal(1, 1, 2, 5, 6), None, None, np.array([7, 8]), axes=[3, 2],
            mode="linear", keep_aspect_ratio_policy=policy,
        )  # fmt: skip

    def test_cubic_without_what_lies_outside(self) -> None:
        agree(
            "Resize", normal(1, 1, 1, 5, 6), None, np.array([1, 1, 1.7, 2], np.float32),
            mode="cubic", cubic_coeff_a=-0.5, exclude_outside=1,
        )  # fmt: skip

    @pytest.mark.parametrize("mode", ["linear", "cubic"])
    @pytest.mark.parametrize("transformation", [*RESIZE_MODES, "half_pixel_symmetric"])
    @pytest.mark.parametrize("outside", [0, 1])
    def test_antialiased(self, mode: str, transformation: str, outside: int) -> None:
        for size in ((2, 3), (3, 14), (10, 9), (1, 1)):
            agree(
                "Resize", normal(1, 1, 2, 5, 7), None, None, np.array([1, 2, *size]), mode=mode,
                coordinate_transformation_mode=transformation, antialias=1, exclude_outside=outside,
            )  # fmt: skip

    @pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
    @pytest.mark.parametrize("scales", [(2, 2), (0.6, 0.5), (1.3, 0.7), (3, 1)])
    def test_the_transformation_of_old_operator_sets(
        self, mode: str, scales: tuple[float, float]
    ) -> None:
        for rounding in NEAREST if mode == "nearest" else NEAREST[:1]:
            agree(
                "Resize", normal(1, 1, 1, 5, 7), None, np.array([1, 1, *scales], np.float32),
                mode=mode, nearest_mode=rounding,
                coordinate_transformation_mode="tf_half_pixel_for_nn",
            )  # fmt: skip

    @pytest.mark.parametrize(
        ("attributes", "match"),
        [
            ({"antialias": 1, "mode": "nearest"}, r"antialias=1 with mode=nearest"),
            (
                {
                    "antialias": 1,
                    "mode": "linear",
                    "coordinate_transformation_mode": "tf_crop_and_resize",
                },
                r"antialias=1 with tf_crop_and_resize",
            ),
            ({"mode": "area"}, r"mode=area"),
            ({"coordinate_transformation_mode": "tf_crop_and_resize"}, r"without roi"),
            ({"axes": (0, 0)}, r"one axis twice"),
        ],
    )
    def test_refuses(self, attributes: dict[str, Any], match: str) -> None:
        x, scales = normal(1, 4, 4), np.array([2, 2], np.float32)
        refused("Resize", x, None, scales, match=match, **attributes)

    def test_refuses_sizes(self) -> None:
        x = normal(1, 4, 4)
        refused("Resize", x, match=r"scales or sizes")
        refused("Resize", x, None, None, np.array([0, 1]), match=r"not positive")
        refused(
            "Resize", x, None, None, np.array([2**40, 1]), match=r"extents \[1099511627776, 1\]"
        )
        refused("Resize", x, None, np.array([0.1, 1], np.float32), match=r"extents \[0, 4\]")
        refused("Resize", x.astype(np.uint8), None, None, np.array([2, 2]), mode="linear",
                match=r"mode=linear of uint8")  # fmt: skip

    @pytest.mark.parametrize("declared", [65, 64, "W"])
    def test_extents_that_the_file_declares_otherwise_are_told(self, declared: Any) -> None:
        """32 times 2.01 is 64 and a bit."""
        proto = om.model(
            [om.node("Resize", "x - s", "y")], {"x": ["N", 1, 32, 32]}, opset=18,
            constants={"s": np.array([1, 1, 2.01, 2], np.float32)},
        )  # fmt: skip
        proto.graph.output[0].CopyFrom(om.value("y", ["N", 1, declared, 64]))
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            prepare(proto.SerializeToString(), Machine(8, 16))
        said = [str(warning.message) for warning in told]
        wrong = r"Resize 'n_y' gives \[1, 1, 64, 64\], but the file declares \[N, 1, 65, 64\]"
        assert [bool(re.search(wrong, text)) for text in said] == [True] * (declared == 65)

    def test_refuses_sizes_known_only_at_run_time(self) -> None:
        node = Node("Resize", "tested", ("x", "", "", "s"), ("y",))
        operands = (Operand(np.dtype("f4"), (4,)), None, None, Operand(np.dtype("i8"), (1,)))
        with pytest.raises(CompileError, match=r"sizes is not constant"):
            ops.find(node).infer(node, operands)
