"""Sequences of tensors, which exporters write for lists: resolved to the tensors in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from secateur.compiler.graph import Node, unsupported
from secateur.compiler.ops import rules
from secateur.compiler.rewrites import Builder

Sequences = dict[str, tuple[str, ...]]
"""Sequence -> the values in it."""

Rule = Callable[[Node, Builder, Sequences], "str | tuple[str, ...]"]
"""Return the value, or the sequence, that a node gives."""

MOST_PARTS = 10_000
"""Extent of an axis that is taken apart: each part may be a value."""


def _place(node: Node, build: Builder, index: int, count: int, default: int) -> int:
    """Return the position that an input names, counted from the front."""
    if index >= len(node.inputs) or not node.inputs[index]:
        return default
    given = build.operand(node.inputs[index])
    place = int(rules.scalar(node, given, "position"))
    if not -count <= place < count:
        raise unsupported(node, f"position {place} of a sequence of {count}")
    return place % count


def _insert(node: Node, build: Builder, known: Sequences) -> tuple[str, ...]:
    found = known[node.inputs[0]]
    place = len(found)
    if len(node.inputs) > 2:
        given = int(rules.scalar(node, build.operand(node.inputs[2]), "position"))
        if not -len(found) <= given <= len(found):
            raise unsupported(node, f"position {given} of a sequence of {len(found)}")
        place = given + len(found) if given < 0 else given
    return (*found[:place], node.inputs[1], *found[place:])


def _erase(node: Node, build: Builder, known: Sequences) -> tuple[str, ...]:
    found = known[node.inputs[0]]
    place = _place(node, build, 1, len(found), len(found) - 1)
    return (*found[:place], *found[place + 1 :])


def _at(node: Node, build: Builder, known: Sequences) -> str:
    found = known[node.inputs[0]]
    return found[_place(node, build, 1, len(found), -1)]


def _length(node: Node, build: Builder, known: Sequences) -> str:
    return build.constant(len(known[node.inputs[0]]), np.int64)


def _joined(node: Node, build: Builder, known: Sequences) -> str:
    found, axis = known[node.inputs[0]], node.get("axis")
    if not found:
        raise unsupported(node, "its sequence is empty")
    if node.get("new_axis", 0):
        axes = build.constant([axis], np.int64)
        found = tuple(build.add("Unsqueeze", value, axes) for value in found)
    return build.add("Concat", *found, axis=axis)


def _cut(node: Node, build: Builder, known: Sequences) -> tuple[str, ...]:
    source = node.inputs[0]
    shape = build.shape(source)
    axis = rules.axis(node, node.get("axis", 0), len(shape))
    extent, alone = shape[axis], False
    if extent > MOST_PARTS:
        raise unsupported(node, f"an axis of {extent}; up to {MOST_PARTS:,} can be taken apart")
    if len(node.inputs) < 2:
        sizes, alone = [1] * extent, not node.get("keepdims", 1)
    else:
        given = build.operand(node.inputs[1])
        sizes = list(rules.integers(node, given, "split"))
        if not given.shape:
            if sizes[0] < 1:
                raise unsupported(node, f"parts of {sizes[0]}")
            sizes = [min(sizes[0], extent - start) for start in range(0, extent, sizes[0])]
    if not sizes:
        return ()
    parts = build.several(
        "Split", source, build.constant(sizes, np.int64), outputs=len(sizes), axis=axis
    )
    if alone:
        axes = build.constant([axis], np.int64)
        parts = tuple(build.add("Squeeze", part, axes) for part in parts)
    return parts


RULES: Mapping[str, Rule] = MappingProxyType({
    "ConcatFromSequence": _joined,
    "SequenceAt": _at,
    "SequenceConstruct": lambda node, build, known: node.inputs,
    "SequenceEmpty": lambda node, build, known: (),
    "SequenceErase": _erase,
    "SequenceInsert": _insert,
    "SequenceLength": _length,
    "SplitToSequence": _cut,
})  # fmt: skip
"""What each operator on sequences gives."""
