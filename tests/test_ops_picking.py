"""What operators mean that pick elements, sample images or normalise responses."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from operator_harness import agree, normal, ours, refused

INT = np.int64


class TestTopK:
    @pytest.mark.parametrize("largest", [0, 1])
    @pytest.mark.parametrize("axis", [0, 1, -1])
    @pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.int32])
    def test_equals_onnxruntime(self, largest: int, axis: int, dtype: Any) -> None:
        x = (normal(1, 5, 6, 7) * 3).round().astype(dtype)  # many are equal
        for k in (0, 1, 5):
            agree("TopK", x, np.array([k]), outputs=2, axis=axis, largest=largest)

    def test_nan_counts_as_the_largest(self) -> None:
        x = np.array([1, np.nan, np.inf, -np.inf, np.nan], np.float32)
        values, positions = ours("TopK", x, np.array([3]), outputs=2)
        np.testing.assert_array_equal(values, [np.nan, np.nan, np.inf])
        assert positions.tolist() == [1, 4, 2]
        values, positions = ours("TopK", x, np.array([4]), outputs=2, largest=0)
        assert positions.tolist() == [3, 0, 2, 1]

    def test_refuses(self) -> None:
        refused("TopK", normal(1, 3), np.array([4]), match=r"4 elements of an axis of 3")
        refused("TopK", normal(1, 3), np.array([1, 2]), match=r"K has 2 elements")


class TestGridSample:
    @pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
    @pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
    @pytest.mark.parametrize("align", [0, 1])
    def test_equals_onnxruntime(self, mode: str, padding: str, align: int) -> None:
        rng = np.random.default_rng(0)
        for shape, places in (((2, 3, 5, 7), (4, 6)), ((1, 2, 1, 4), (3, 3))):
            grid = rng.uniform(-1.7, 1.7, (shape[0], *places, 2)).astype(np.float32)
            agree(
                "GridSample", normal(1, *shape), grid, mode=mode, padding_mode=padding,
                align_corners=align,
            )  # fmt: skip

    @pytest.mark.parametrize(
        ("mode", "padding"), [*product(["linear", "nearest"], ["zeros", "border"])]
    )
    def test_volumes_equal_onnxruntime(self, mode: str, padding: str) -> None:
        grid = np.random.default_rng(0).uniform(-1.5, 1.5, (2, 3, 2, 4, 3)).astype(np.float32)
        agree("GridSample", normal(1, 2, 3, 4, 5, 3), grid, mode=mode, padding_mode=padding)

    def test_corners(self) -> None:
        x = np.arange(6, dtype=np.float32).reshape(1, 1, 2, 3)
        grid = np.array([[[[-1, -1], [1, -1], [-1, 1], [1, 1]]]], np.float32)
        (y,) = ours("GridSample", x, grid, align_corners=1)
        assert y.tolist() == [[[[0, 2, 3, 5]]]]

    def test_refuses(self) -> None:
        x, grid = normal(1, 2, 3, 4, 4), normal(2, 2, 5, 5, 2)
        refused("GridSample", x, grid, mode="area", match="mode=area")
        refused("GridSample", x, grid, padding_mode="wrap", match="padding_mode=wrap")
        refused("GridSample", x, grid[..., :1], match=r"a grid of shape \(2, 5, 5, 1\)")
        refused("GridSample", x, grid[:1], match="1 grids for 2 images")
        refused("GridSample", x[:, :, :0], grid, match="no pixels")


class TestLRN:
    @pytest.mark.parametrize("size", [1, 3, 5, 19])
    def test_equals_onnxruntime(self, size: int) -> None:
        x = normal(1, 2, 8, 5, 5) * 30
        agree("LRN", x, size=size)
        agree("LRN", x, size=size, alpha=0.1, beta=0.5, bias=2.0)

    def test_an_even_window_reaches_further_up(self) -> None:
        x = np.ones((1, 4, 1, 1), np.float32)
        (y,) = ours("LRN", x, size=2, alpha=2.0, beta=1.0)
        np.testing.assert_allclose(y.ravel(), [1 / 3, 1 / 3, 1 / 3, 1 / 2], rtol=1e-6)

    def test_refuses(self) -> None:
        refused("LRN", normal(1, 2, 3, 4), size=0, match="size=0")
        refused("LRN", normal(1, 2), size=3, match="no axis of channels")


def test_shifts_by_all_bits_leave_nothing() -> None:
    x = np.array([255, 129, 1], np.uint8)
    for direction in ("LEFT", "RIGHT"):
        (y,) = ours("BitShift", x, np.array([1, 7, 200], np.uint8), direction=direction)
        agree("BitShift", x, np.array([1, 7, 3], np.uint8), direction=direction)
        assert y[2] == 0
    below = np.array([-128, -1, 5], np.int8)
    (y,) = ours("BitShift", below, np.array([1, 100, 100], np.int8), direction="RIGHT")
    assert y.tolist() == [-64, -1, 0]
    refused("BitShift", x, x, match="direction=None")


def test_positions_that_are_not_zero() -> None:
    for x in (np.array([[1, 0], [0, 2]], np.float32), np.array(3), np.array(0)):
        agree("NonZero", x)


@pytest.mark.parametrize("op", ["Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cosh", "Sinh"])
def test_functions_of_angles(op: str) -> None:
    x = np.array([-2, -1, -0.5, 0, 0.3, 1, 4, np.inf, -np.inf, np.nan], np.float32)
    agree(op, x)
