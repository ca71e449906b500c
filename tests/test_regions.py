"""Regions of an image brought to a grid: what RoiAlign means, and its C."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import onnx_models as om
import secateur
from operator_harness import agree, normal, ours, refused
from secateur.errors import UsageError

MODES = [
    (mode, moved, samples)
    for mode in ("avg", "max")
    for moved in ("half_pixel", "output_half_pixel")
    for samples in (0, 1, 3)
]


def regions(seed: int, count: int, *, least: float = 0.1, dtype: Any = np.float32) -> np.ndarray:
    """Return regions that lie in an image of 9x11, across its border and beside it."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-6, 16, (count, 2))
    return np.concatenate([corners, corners + rng.uniform(least, 9, (count, 2))], 1).astype(dtype)


def attributes(mode: str, moved: str, samples: int, **more: Any) -> dict[str, Any]:
    size = {"output_height": 3, "output_width": 2, "spatial_scale": 0.7}
    moving = {"coordinate_transformation_mode": moved, "sampling_ratio": samples}
    return {"mode": mode, **moving, **size, **more}


@pytest.mark.parametrize(("mode", "moved", "samples"), MODES)
def test_equals_onnxruntime(mode: str, moved: str, samples: int) -> None:
    x, which = normal(1, 2, 3, 9, 11), np.array([0, 1, 1, 0, 1, 0, 0])
    for scale in (1.0, 0.37):
        form = attributes(mode, moved, samples, spatial_scale=scale)
        agree("RoiAlign", x, regions(2, 7), which, **form)


def test_the_oldest_form_reads_no_half_pixels() -> None:
    x, boxes, which = normal(1, 1, 2, 9, 11), regions(3, 4), np.zeros(4, np.int64)
    ports = [om.value(n, a.shape, a.dtype) for n, a in (("x", x), ("b", boxes), ("w", which))]
    node = om.node("RoiAlign", "x b w", "y", output_height=2, output_width=2)
    proto = om.model([node], ports, opset=12)
    feeds = {"x": x, "b": boxes, "w": which}
    wanted = om.onnxruntime_gives(proto, feeds)["y"]
    with secateur.compile(proto) as engine:
        np.testing.assert_allclose(engine(feeds), wanted, rtol=1e-4, atol=1e-5)


@given(st.integers(0, 2**31), st.sampled_from(["float32", "float64"]))
def test_engines_give_what_the_reference_gives(seed: int, dtype: str) -> None:
    x = np.random.default_rng(seed).standard_normal((2, 5, 9, 11)).astype(dtype)
    boxes = regions(seed, 6, least=-2, dtype=dtype)
    which = np.array([1, 0, 1, 1, 0, 0])
    found = engine_of(dtype)(x, boxes, which)
    for form, y in zip(MODES, found, strict=True):
        (wanted,) = ours("RoiAlign", x, boxes, which, **attributes(*form))
        np.testing.assert_allclose(y, wanted, rtol=1e-3, atol=1e-4)


@cache
def engine_of(dtype: str) -> secateur.Engine:
    """Return an engine of all modes at once."""
    nodes = [
        om.node("RoiAlign", "x b w", f"y{k}", **attributes(*form)) for k, form in enumerate(MODES)
    ]
    ports = [om.value("x", [2, 5, 9, 11], dtype), om.value("b", [6, 4], dtype)]
    ports.append(om.value("w", [6], np.int64))
    names = " ".join(f"y{k}" for k in range(len(nodes)))
    return secateur.compile(om.model(nodes, ports, names))


def test_regions_without_end_and_images_that_there_are_not() -> None:
    x = normal(1, 2, 5, 9, 11)
    boxes = np.array(
        [
            [0, 0, np.inf, np.inf],
            [-np.inf, 0, 4, np.inf],
            [np.nan, 0, 4, 4],
            [-1e30, -1e30, 1e30, 1e30],
            [4, 4, 4, 4],
            [9, 9, 3, 3],
        ],
        np.float32,
    )
    found = engine_of("float32")(x, boxes, np.array([0, -(2**40), 2**40, 1, 1, 0]))
    for form, y in zip(MODES, found, strict=True):
        (wanted,) = ours("RoiAlign", x, boxes, np.array([0, 0, 1, 1, 1, 0]), **attributes(*form))
        np.testing.assert_allclose(y, wanted, rtol=1e-3, atol=1e-4)


def test_refuses() -> None:
    x, boxes, which = normal(1, 2, 3, 9, 11), regions(1, 4), np.zeros(4, np.int64)
    refused("RoiAlign", x, boxes, which, mode="sum", match="mode=sum")
    moved = {"coordinate_transformation_mode": "whole"}
    refused("RoiAlign", x, boxes, which, **moved, match="coordinate_transformation_mode=whole")
    refused("RoiAlign", x, boxes, which, sampling_ratio=-1, match="sampling_ratio=-1")
    refused("RoiAlign", x, boxes, which, output_width=0, match=r"a grid of \[1, 0\]")
    refused("RoiAlign", x, boxes[:, :3], which, match=r"regions of shape \(4, 3\)")
    refused("RoiAlign", x, boxes, which[:2], match=r"\(2,\) numbers of images for 4 regions")
    refused("RoiAlign", x[:, :, :0], boxes, which, match="no pixels")
    with pytest.raises(UsageError, match="none of the 2 images"):
        ours("RoiAlign", x, boxes, which + 2)
