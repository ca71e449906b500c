"""Regions of an image, each brought to a grid of one size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from secateur.compiler.graph import Node, Tensor, unsupported
from secateur.compiler.ops import Arrays, Operand, Operator, rules
from secateur.compiler.ops.rules import FLOATS, Operands
from secateur.errors import UsageError

MOST_SAMPLES = 1024
"""Samples along an axis of a cell, at most, where a region's size says how many: of a larger one
the rest counts as not there. ONNX sets no end, and a region may be infinite."""


@dataclass(frozen=True)
class Align:
    """How a RoiAlign node reads its regions.

    Attributes:
        largest: it takes the largest of its samples, not their mean.
        cells: of the grid, down and across.
        samples: along each axis of a cell; 0: as many as the cell has pixels.
        scale: from the regions' coordinates to pixels.
        shift: pixels that are then taken off.
        least: size of a region at least, in pixels; None where there is no least.
    """

    largest: bool
    cells: tuple[int, int]
    samples: int
    scale: float
    shift: float
    least: float | None

    @staticmethod
    def of(node: Node) -> Align:
        """Return the form of a node."""
        half = node.get("coordinate_transformation_mode", "half_pixel") == "half_pixel"
        return Align(
            node.get("mode", "avg") == "max",
            (node.get("output_height", 1), node.get("output_width", 1)),
            node.get("sampling_ratio", 0),
            node.get("spatial_scale", 1.0),
            0.5 if half else 0.0,
            None if half else 1.0,
        )


def _images(node: Node, operands: Operands) -> tuple[Operand, Operand]:
    x = rules.operand(node, operands, 0, "X", FLOATS)
    boxes = rules.operand(node, operands, 1, "rois", FLOATS)
    rules.same_dtype(node, x, boxes)
    if len(x.shape) != 4 or len(boxes.shape) != 2 or boxes.shape[1] != 4:
        raise unsupported(node, f"regions of shape {boxes.shape} for an input of {x.shape}")
    if not min(x.shape[0], *x.shape[2:]):
        raise unsupported(node, f"an input of shape {x.shape}, which has no pixels")
    return x, boxes


def _infer_align(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 3, 3)
    x, boxes = _images(node, operands)
    which = rules.operand(node, operands, 2, "batch_indices", rules.INDICES)
    if which.shape != boxes.shape[:1]:
        raise unsupported(node, f"{which.shape} numbers of images for {boxes.shape[0]} regions")
    mode = node.get("mode", "avg")
    moved = node.get("coordinate_transformation_mode", "half_pixel")
    if mode not in ("avg", "max") or moved not in ("half_pixel", "output_half_pixel"):
        raise unsupported(node, f"mode={mode}, coordinate_transformation_mode={moved}")
    form = Align.of(node)
    if min(form.cells) < 1 or not 0 <= form.samples <= MOST_SAMPLES:
        raise unsupported(node, f"a grid of {list(form.cells)} with sampling_ratio={form.samples}")
    return (Tensor(x.dtype, (boxes.shape[0], x.shape[1], *form.cells)),)


def _align(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    """As ONNX Runtime has it, and ONNX's tests: the largest is that of the weighted corners."""
    x, boxes, which = (rules.array(arrays, k) for k in range(3))
    if which.size and not 0 <= which.min() <= which.max() < len(x):
        raise UsageError(f"node {node}: a region lies in none of the {len(x)} images")
    form, wide = Align.of(node), np.promote_types(x.dtype, np.float32)
    y = np.zeros((len(boxes), x.shape[1], *form.cells), wide)
    images = x.astype(wide, copy=False)
    with np.errstate(all="ignore"):
        for r, (box, image) in enumerate(zip(boxes.astype(wide), which, strict=True)):
            down = _places(form, box[1], box[3], form.cells[0], x.shape[2])
            across = _places(form, box[0], box[2], form.cells[1], x.shape[3])
            (_largest if form.largest else _mean)(images[image], down, across, y[r])
    return (y.astype(x.dtype, copy=False),)


Line = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Of every sample [cells, samples]: the pixels before and behind it, and their weights."""


def _places(form: Align, low: np.floating, high: np.floating, cells: int, extent: int) -> Line:
    kind = type(low)
    start, end = (v * kind(form.scale) - kind(form.shift) for v in (low, high))
    size = end - start
    if form.least is not None:
        size = max(size, kind(form.least))
    step = size / kind(cells)
    count = form.samples
    if not count:
        wanted = np.ceil(step)
        count = int(min(wanted, MOST_SAMPLES)) if wanted > 0 else 0
    cell, sample = np.arange(cells, dtype=kind)[:, None], np.arange(count, dtype=kind)
    place = start + cell * step + (sample + kind(0.5)) * step / kind(max(count, 1))
    there = (place >= -1) & (place <= extent)
    place = np.where(there, place, 0).clip(0, extent - 1)
    before = np.floor(place).astype(np.int64)
    away = place - before
    weights = (np.where(there, w, 0) for w in (1 - away, away))
    return before, np.minimum(before + 1, extent - 1), *weights


def _mean(image: np.ndarray, down: Line, across: Line, y: np.ndarray) -> None:
    """Samples lie on a grid: their mean is that of rows of the mean of columns."""

    def weights(line: Line, extent: int) -> np.ndarray:
        before, behind, first, second = line
        found = np.zeros((len(before), extent), image.dtype)
        cells = np.broadcast_to(np.arange(len(before))[:, None], before.shape)
        np.add.at(found, (cells, before), first)
        np.add.at(found, (cells, behind), second)
        return np.asarray(found / max(before.shape[1], 1))

    rows, columns = (
        weights(line, n) for line, n in zip((down, across), image.shape[1:], strict=True)
    )
    y[...] = rows @ image @ columns.T


def _largest(image: np.ndarray, down: Line, across: Line, y: np.ndarray) -> None:
    for i, j in np.ndindex(y.shape[1:]):
        rows, columns = _inside(down, i), _inside(across, j)
        if not down[0].shape[1] * across[0].shape[1]:
            continue
        beside = not (rows.all() and columns.all())
        most = np.full(len(y), 0.0 if beside else -np.inf, y.dtype)
        for k in np.flatnonzero(rows):
            for a, b in np.ndindex(2, 2):
                seen = image[:, down[a][i, k], across[b][j, columns]]
                weighted = seen * (down[2 + a][i, k] * across[2 + b][j, columns])
                most = np.maximum(most, weighted.max(1, initial=-np.inf))
        y[:, i, j] = most


def _inside(line: Line, cell: int) -> np.ndarray:
    """Return which samples of a cell lie in the image."""
    return np.asarray(line[2][cell] + line[3][cell] > 0)


OPERATORS = (
    Operator(
        "RoiAlign",
        _infer_align,
        _align,
        frozenset(
            {
                "coordinate_transformation_mode",
                "mode",
                "output_height",
                "output_width",
                "sampling_ratio",
                "spatial_scale",
            }
        ),
    ),
)
