"""Loops that go over several values at once.

A loop is how often it runs and by how much each value's pointer moves. Loops that follow each other
in memory become one, so that the innermost is as long as it can be and compilers vectorise it: a
value and its lanes, or a whole tensor, are often a single loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from secateur.compiler.kernels import Body, Place
from secateur.compiler.layout import PLAIN, Layout

ALONE = 4096
"""Work (elements, weighted) below which one thread does it all: sharing it would cost more."""

SHARES = 32
"""Into how many shares work is cut, at least, where it is shared."""

RUN = 256
"""Work that a share of an innermost loop holds at least."""

Carried = Mapping[int, int]
"""Axis of a value -> axis that the loops know it by."""


@dataclass(frozen=True)
class Axis:
    """A loop: how often it runs, and by how many elements each pointer moves each time."""

    extent: int
    steps: tuple[int, ...]


@dataclass(frozen=True)
class Pointer:
    """A C expression that points to elements of a type."""

    c: str
    ref: str

    @staticmethod
    def to(place: Place) -> Pointer:
        """Return the pointer to the first element of a value."""
        return Pointer(place.c, place.ref)


@dataclass(frozen=True)
class Run:
    """C of many elements at once.

    Attributes:
        text: a statement that does `n` elements, from `py` and `p0`, `p1`, ... on.
        steps: how far apart it takes elements of the output, and of every input, to be.
    """

    text: str
    steps: tuple[int, int]


def spread(lead: Layout, others: Sequence[tuple[Layout, Carried]]) -> tuple[list[Axis], list[Axis]]:
    """Return the loops over a value's positions, by its axes, and those over its lanes.

    Args:
        lead: it is gone over, pointer 0.
        others: pointers 1 and up. An axis of extent 1, or none, for an axis of the lead stays
            where it is; any other has the same blocks. A value that is cut is cut as the lead is,
            along those axes that both have.
    """
    back = [{mine: its for its, mine in where.items()} for _, where in others]
    axes = []
    for o, extent in enumerate(lead.blocks):
        steps = [lead.strides[o]]
        for (layout, _), inverse in zip(others, back, strict=True):
            a = inverse.get(o)
            steps.append(0 if a is None or layout.shape[a] == 1 else layout.strides[a])
        axes.append(Axis(extent, tuple(steps)))
    return axes, _lanes(lead, others, back)


def _lanes(
    lead: Layout, others: Sequence[tuple[Layout, Carried]], back: Sequence[Carried]
) -> list[Axis]:
    if lead.lanes == 1:
        return []
    cuts = [layout.cut.moved(where) for layout, where in others]
    if all(cut in (PLAIN, lead.cut) for cut in cuts):
        return [Axis(lead.lanes, (1, *(int(cut != PLAIN) for cut in cuts)))]
    axes = []
    for o, lanes, _ in lead.cut.axes:
        steps = [lead.lane_strides[o]]
        for (layout, _), inverse, cut in zip(others, back, cuts, strict=True):
            mine = o in cut.as_dict()
            steps.append(layout.lane_strides[inverse[o]] if mine else 0)
        axes.append(Axis(lanes, tuple(steps)))
    return axes


def merged(axes: Iterable[Axis]) -> list[Axis]:
    """Return loops that do the same with as few levels as possible; [] is a single element."""
    found: list[Axis] = []
    for axis in axes:
        if axis.extent == 0:
            return [axis]
        if axis.extent == 1:
            continue
        outer = found[-1] if found else None
        follows = outer is not None and all(
            big == small * axis.extent for big, small in zip(outer.steps, axis.steps, strict=True)
        )
        if outer is not None and follows:
            found[-1] = Axis(outer.extent * axis.extent, axis.steps)
        else:
            found.append(axis)
    return found


def only(axes: Iterable[Axis], *pointers: int) -> list[Axis]:
    """Return loops that move some of the pointers alone."""
    return [Axis(a.extent, tuple(a.steps[k] for k in pointers)) for a in axes]


def by_memory(axes: Iterable[Axis], pointer: int = 0) -> list[Axis]:
    """Return loops in the order of a pointer's memory, the outermost first."""
    return sorted(axes, key=lambda a: -a.steps[pointer])


def at(names: Sequence[str], axes: Sequence[Axis], pointer: int) -> str:
    """Return the C expression of a pointer's offset, in elements."""
    terms = [
        f"{name}*{axis.steps[pointer]}L"
        for name, axis in zip(names, axes, strict=True)
        if axis.steps[pointer]
    ]
    return " + ".join(terms) or "0"


def shared(body: Body, extents: Sequence[int], names: Sequence[str], work: int) -> int:
    """Open loops whose iterations threads share; return how many braces were opened.

    Args:
        body: is written to.
        extents: of the loops, outermost first.
        names: of their variables.
        work: of one iteration, in elements.
    """
    if prod(extents) * work > ALONE:
        return body.loops(extents, names)
    body.open("if (t == 0)")
    return 1 + body.loops(extents, names, shared=False)


def units(
    body: Body, axes: Sequence[Axis], pointers: Sequence[Pointer], prefix: str, work: int
) -> int:
    """Open loops whose iterations threads share; return how many braces were opened.

    Args:
        body: is written to; pointer k becomes `{prefix}k`.
        axes: the loops.
        pointers: what they move.
        prefix: of the names of the moved pointers.
        work: of one iteration, in elements.
    """
    names = [f"{prefix}_{n}" for n in range(len(axes))]
    opened = shared(body, [a.extent for a in axes], names, work)
    for k, pointer in enumerate(pointers):
        offset = at(names, axes, k)
        body.line(f"{pointer.c} *{prefix}{k} = {pointer.ref} + {offset};")
        body.line(f"(void){prefix}{k};")
    return opened


def each(
    body: Body,
    axes: Iterable[Axis],
    out: Pointer,
    inputs: Sequence[Pointer | None],
    expression: str,
    *,
    weight: int = 1,
    alone: bool = False,
    run: Run | None = None,
) -> None:
    """Write: for every element, out = expression of `x0`, `x1`, ...

    Args:
        body: is written to.
        axes: the loops, outermost first; step 0 is of `out`, step 1 + k of input k.
        out: what is written; each input is it, element for element, or does not overlap with it.
        inputs: what is read; None for one that the expression does not read.
        expression: C; its names must not begin with p, i or j.
        weight: cost of the expression, in additions.
        alone: the thread that comes here does all elements; else threads share them.
        run: the same of many elements at once, where they lie so.
    """
    loops = merged(axes) or [Axis(1, (0,) * (1 + len(inputs)))]
    outer, inner = loops[:-1], loops[-1]
    total, bound = prod(a.extent for a in loops), str(inner.extent)
    if not total:
        return
    body.open("")
    opened = 1
    together = not alone and total * weight > ALONE
    if together:
        outer, inner, bound = _split(outer, inner, weight)
    elif not alone:
        body.open("if (t == 0)")
        opened += 1
    names = [f"i{n}" for n in range(len(outer))]
    opened += body.loops([a.extent for a in outer], names, shared=together)
    restrict = "" if any(p is not None and p.ref == out.ref for p in inputs) else "restrict "
    body.line(f"{out.c} *{restrict}py = {out.ref} + {at(names, outer, 0)};")
    still: list[str] = []
    moving: list[str] = []
    for k, pointer in enumerate(inputs):
        if pointer is None:
            continue
        step = inner.steps[k + 1]
        body.line(f"const {pointer.c} *p{k} = {pointer.ref} + {at(names, outer, k + 1)};")
        (moving if step else still).append(
            f"const {pointer.c} x{k} = {_element(f'p{k}', step)}; (void)x{k};"
        )
    read = [inner.steps[k + 1] for k, pointer in enumerate(inputs) if pointer is not None]
    if run and (inner.steps[0], *{*read}) == run.steps:
        body.line(f"const long n = {bound};")
        body.line(run.text)
        body.close(opened)
        return
    for line in still:
        body.line(line)
    body.open(f"for (long j = 0; j < {bound}; j++)")
    for line in moving:
        body.line(line)
    body.line(f"{_element('py', inner.steps[0])} = {expression};")
    body.close(opened + 1)


def _split(outer: list[Axis], inner: Axis, weight: int) -> tuple[list[Axis], Axis, str]:
    """Cut an innermost loop into shares, where those outside it are too few to be shared.

    Returns:
        Outer loops, inner loop, and its bound as C.
    """
    name, rows = f"i{len(outer)}", prod(a.extent for a in outer)
    wanted = -(-SHARES // rows)
    size = max(-(-inner.extent // wanted), -(-RUN // weight), 64)
    size = -(-size // 64) * 64  # shares of whole cache lines, whatever the type
    shares = -(-inner.extent // size)
    if shares < 2:
        return outer, inner, str(inner.extent)
    chunk = Axis(shares, tuple(step * size for step in inner.steps))
    bound = f"SEC_LEAST({size}L, {inner.extent}L - {name} * {size}L)"
    return [*outer, chunk], inner, bound


def _element(pointer: str, step: int) -> str:
    if step == 0:
        return f"*{pointer}"
    return f"{pointer}[j]" if step == 1 else f"{pointer}[j*{step}L]"
