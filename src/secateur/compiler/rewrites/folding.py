"""Columns of windows added up to the image that they were cut from: Col2Im, torch's `fold`."""

from __future__ import annotations

from math import prod

import numpy as np

from secateur.compiler.graph import Node, unsupported
from secateur.compiler.ops import rules
from secateur.compiler.rewrites import Builder

MOST = 2**25
"""Elements of the windows of one channel: each has its place among the constants."""


def _image(node: Node, build: Builder) -> tuple[str, ...]:
    operands = build.operands()
    rules.arity(node, operands, 3, 3)
    x = rules.operand(node, operands, 0, "input", rules.FLOATS)
    image, block = (
        rules.integers(node, rules.operand(node, operands, k, name, rules.INDICES), name)
        for k, name in ((1, "image_shape"), (2, "block_shape"))
    )
    rank = len(image)
    strides = node.get("strides", (1,) * rank)
    dilations = node.get("dilations", (1,) * rank)
    pads = node.get("pads", (0,) * 2 * rank)
    sizes = tuple(map(len, (block, strides, dilations, pads)))
    if not rank or sizes != (rank, rank, rank, 2 * rank):
        raise unsupported(node, f"an image of {image}, blocks of {block} and pads={tuple(pads)}")
    if min(*image, *block, *strides, *dilations) < 1 or min(pads) < 0:
        raise unsupported(node, f"blocks of {block}, strides={strides}, dilations={dilations}")
    taken = []
    for a, extent in enumerate(image):
        room = extent + pads[a] + pads[rank + a] - dilations[a] * (block[a] - 1) - 1
        taken.append(max(0, room // strides[a] + 1))
    windows, pixels, taps = prod(taken), prod(image), prod(block)
    if len(x.shape) != 3 or x.shape[1] % taps or x.shape[2] != windows:
        raise unsupported(
            node, f"an input of shape {x.shape} for {windows} windows of {taps} elements"
        )
    if taps * windows > MOST:
        raise unsupported(node, f"its {windows} windows of {taps} elements are more than {MOST:,}")
    places = np.zeros((1,) * 2 * rank, np.int64)  # [*block, *windows]: in the image
    inside = np.ones((1,) * 2 * rank, bool)
    for a, extent in enumerate(image):
        place = np.arange(block[a])[:, None] * dilations[a] + np.arange(taken[a]) * strides[a]
        shape = [1] * 2 * rank
        shape[a], shape[rank + a] = place.shape
        place = (place - pads[a]).reshape(shape)
        places = places * extent + place
        inside = inside & (place >= 0) & (place < extent)
    images, channels = x.shape[0], x.shape[1] // taps
    # what lies outside goes to a row of its own, behind the others
    rows = np.where(inside, places, pixels).reshape(-1)
    zeros = build.constant([pixels + 1, images * channels], np.int64)
    columns = build.reshape(node.inputs[0], (images * channels, rows.size))
    found = build.add(
        "ScatterRows",
        build.add("Expand", build.constant(0, x.dtype), zeros),
        build.constant(rows),
        build.add("Transpose", columns, perm=(1, 0)),
        reduction="add",
    )
    kept = build.add("Slice", found, *(build.constant([k], np.int64) for k in (0, pixels, 0)))
    return (build.reshape(build.add("Transpose", kept, perm=(1, 0)), (images, channels, *image)),)


REWRITES = {"Col2Im": _image}
