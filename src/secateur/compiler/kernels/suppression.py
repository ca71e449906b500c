"""NonMaxSuppression: class after class, by one thread, because rows follow each other closely."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.compiler.graph import Node
from secateur.compiler.kernels import Body, Carry, Kernel, Machine, Place, Step, Types
from secateur.compiler.ops.suppression import UNUSED

BOX = 20
"""Bytes of a `sec_box`."""


def _plain(node: Node, _types: Types) -> list[Carry | None]:
    return [None for _ in node.inputs]


def _scratch(node: Node, types: Types, _machine: Machine) -> int:
    """Return the bytes of a heap of all boxes, and of the boxes of a class that stay."""
    batch, classes, count = types[node.inputs[1]].shape
    most = types[node.outputs[0]].shape[0] // max(batch * classes, 1)
    return 4 * count + (BOX + 4) * most


def _emit(node: Node, inputs: Sequence[Place | None], outputs: Sequence[Place], step: Step) -> str:
    boxes, scores, _, covering, least = (*inputs, None, None, None)[:5]
    y, body = outputs[0], Body()
    assert boxes is not None
    assert scores is not None
    rows = y.layout.shape[0]
    if not rows:
        return ""
    batch, classes, count = scores.layout.shape
    most = rows // (batch * classes)
    body.open("if (t == 0)")
    body.line(f"int64_t *y = {y.ref};")
    body.line("long row = 0;")
    body.line(f"int32_t *heap = (int32_t *){step.scratch}, *stay = heap + {count};")
    body.line(f"sec_box *kept = (sec_box *)(stay + {most});")
    limit = f"*({covering.ref})" if covering else "0"
    body.open(f"for (long n = 0; n < {batch}; n++) for (long k = 0; k < {classes}; k++)")
    body.line(
        f"const int found = sec_suppress({scores.ref} + {scores.at(['n', 'k', '0'])}, "
        f"{scores.layout.strides[2]}, {boxes.ref} + {boxes.at(['n', '0', '0'])}, "
        f"{boxes.layout.strides[1]}, {boxes.layout.strides[2]}, {count}, "
        f"{node.get('center_point_box', 0)}, {limit}, {least.ref if least else '0'}, "
        f"heap, kept, stay, {most});"
    )
    body.open("for (int i = 0; i < found; i++, row++)")
    for column, text in enumerate(("n", "k", "stay[i]")):
        body.line(f"y[{y.at(['row', str(column)])}] = {text};")
    body.close(2)
    body.line(
        f"for (; row < {rows}; row++) for (long c = 0; c < 3; c++) "
        f"y[{y.at(['row', 'c'])}] = {UNUSED};"
    )
    body.close()
    return body.text()


KERNELS = (Kernel(("NonMaxSuppression",), _emit, carry=_plain, scratch=_scratch),)
