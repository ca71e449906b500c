"""Columns of windows added up to the image that they were cut from: Col2Im, torch's `fold`."""

from __future__ import annotations

from math import prod

import numpy as np

from secateur.compiler.graph import Node, unsupported
from secateur.compiler.ops import rules
from secateur.compiler.rewrites import Builder


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
    if not rank or (len(block), len(strides), len(dilations), len(pads)) != (
        rank,
        rank,
        rank,
        2 * rank,
    ):
        raise unsupported(node, f"an image of {image}, blocks of {block} and pads={tuple(pads)}")
    if min(*image, *block, *strides, *dilations) < 1 or min(pads) < 0:
        raise unsupported(node, f"blocks of {block}, strides={strides}, dilations={dilations}")
    places = np.zeros((1,) * 2 * rank, np.int64)  # [*block, *windows]: in the image
    inside = np.ones((1,) * 2 * rank, bool)
    for a, extent in enumerate(image):
        room = extent + pads[a] + pads[rank + a] - dilations[a] * (block[a] - 1) - 1
        taps = np.arange(block[a])[:, None] * dilations[a]
        steps = np.arange(max(0, room // strides[a] + 1)) * strides[a]
        shape = [1] * 2 * rank
        shape[a], shape[rank + a] = len(taps), len(steps)
        place = (taps + steps - pads[a]).reshape(shape)
        places = places * extent + place
        inside = inside & (place >= 0) & (place < extent)
    windows, pixels = prod(places.shape[rank:]), prod(image)
    taps_of_all = prod(block)
    if len(x.shape) != 3 or x.shape[1] % taps_of_all or x.shape[2] != windows:
        raise unsupported(
            node, f"an input of shape {x.shape} for {windows} windows of {taps_of_all} elements"
        )
    images, channels = x.shape[0], x.shape[1] // taps_of_all
    rows = np.where(inside, places, pixels).reshape(
        -1
    )  # what lies outside goes to a row of its own
    columns = build.reshape(node.inputs[0], (images * channels, rows.size))
    found = build.add(
        "ScatterRows",
        build.constant(np.zeros((pixels + 1, images * channels), x.dtype)),
        build.constant(rows),
        build.add("Transpose", columns, perm=(1, 0)),
        reduction="add",
    )
    kept = build.add("Slice", found, *(build.constant([k], np.int64) for k in (0, pixels, 0)))
    return (build.reshape(build.add("Transpose", kept, perm=(1, 0)), (images, channels, *image)),)


REWRITES = {"Col2Im": _image}
