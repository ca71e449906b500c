"""The largest or smallest elements along an axis: a heap of positions, the last of them on top."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from secateur.compiler.graph import Node
from secateur.compiler.kernels import Body, Carry, Kernel, Machine, Place, Step, Types
from secateur.compiler.kernels.nest import Axis, at, shared, spread


def _plain(node: Node, _types: Types) -> list[Carry | None]:
    return [None for _ in node.inputs]


def _scratch(node: Node, types: Types, _machine: Machine) -> int:
    """Return the bytes of a heap for every row."""
    return 4 * types[next(filter(None, node.outputs))].size


def _emit(node: Node, inputs: Sequence[Place | None], outputs: Sequence[Place], step: Step) -> str:
    x, body = inputs[0], Body()
    assert x is not None
    there = iter(outputs)
    made = [next(there) if name else None for name in node.outputs]
    values, positions = (*made, None)[:2]
    lead = outputs[0].layout
    axis = node.get("axis", -1) % len(lead.shape)
    count, extent = lead.shape[axis], x.layout.shape[axis]
    if not prod(lead.shape):
        return ""
    others: list[Place] = [x, *outputs[1:]]
    same = {a: a for a in range(len(lead.shape))}
    axes, _ = spread(lead, [(place.layout, same) for place in others])
    outer: list[Axis] = [loop for a, loop in enumerate(axes) if a != axis]
    names = [f"k{n}" for n in range(len(outer))]
    opened = shared(body, [loop.extent for loop in outer], names, extent)
    row = "0"
    for name, loop in zip(names, outer, strict=True):
        row = f"({row}) * {loop.extent} + {name}"
    body.line(f"const {x.c} *v = {x.ref} + {at(names, outer, 1)};")
    body.line(f"int32_t *heap = (int32_t *){step.scratch} + ({row}) * {count}L;")
    body.line(f"for (int i = 0; i < {count}; i++) heap[i] = i;")
    before = _before(node, x)
    _sifting(body, f"for (int top = {count} / 2 - 1; top >= 0; top--)", "top", str(count), before)
    body.open(f"for (int i = {count}; i < {extent}; i++)")
    body.line(f"const int better = ({{ const int a = i, b = heap[0]; {before}; }});")
    body.line("if (!better) continue;")
    body.line("heap[0] = i;")
    _sifting(body, "", "0", str(count), before)
    body.close()
    body.open(f"for (int left = {count} - 1; left >= 0; left--)")
    body.line("const int last = heap[0];")
    for place, text in ((values, f"v[last*{x.layout.strides[axis]}L]"), (positions, "last")):
        if place is not None:
            where = at(names, outer, 0 if place is outputs[0] else 2)
            to = f"({place.ref})[{where} + left*{place.layout.strides[axis]}L]"
            body.line(f"{to} = {text};")
    body.line("heap[0] = heap[left];")
    _sifting(body, "", "0", "left", before)
    body.close(1 + opened)
    return body.text()


def _before(node: Node, x: Place) -> str:
    """Return C: whether position a of the row comes before b. NaN is the largest of all."""
    axis = node.get("axis", -1) % len(x.layout.shape)
    a, b = (f"v[{name}*{x.layout.strides[axis]}L]" for name in "ab")
    if not node.get("largest", 1):
        text = f"{a} < {b} || ({a} == {b} && a < b)"
        first, second = b, a
    else:
        text = f"{a} > {b} || ({a} == {b} && a < b)"
        first, second = a, b
    if x.dtype.kind != "f":
        return text
    nan_a, nan_b = f"({a} != {a})", f"({b} != {b})"
    won, lost = f"({first} != {first})", f"({second} != {second})"
    return f"{nan_a} && {nan_b} ? a < b : {won} ? 1 : {lost} ? 0 : ({text})"


def _sifting(body: Body, loop: str, top: str, size: str, before: str) -> None:
    """Let a position sink from `top` until none below it comes after it."""
    body.open(loop)
    body.open(f"for (int here = {top}, child; (child = 2 * here + 1) < {size}; here = child)")
    body.open(f"if (child + 1 < {size})")
    body.line("const int a = heap[child], b = heap[child + 1];")
    body.line(f"child += ({before}) ? 1 : 0;")
    body.close()
    body.line("const int a = heap[here], b = heap[child];")
    body.line(f"if (!({before})) break;")
    body.line("heap[here] = b;")
    body.line("heap[child] = a;")
    body.close(2)


KERNELS = (Kernel(("TopK",), _emit, carry=_plain, scratch=_scratch),)
