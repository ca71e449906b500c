"""Folding positions of a value into one: what reductions, softmax and normalization share.

A unit of work is one place of what is kept, or a vector of them side by side. Threads share the
units. How a unit's elements are folded depends on how they lie: as columns, where a vector holds
neighbouring units; as rows, where neighbours are folded; across lanes, where the lanes of a value
hold parts of what is folded; one by one, where elements are not float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from secateur.compiler.kernels import Body, Place
from secateur.compiler.kernels.expressions import literal, wrapped
from secateur.compiler.kernels.nest import (
    Axis,
    Carried,
    Pointer,
    at,
    by_memory,
    each,
    merged,
    only,
    spread,
    units,
)

NAMES = {
    "sum": "SEC_SUM", "absolutes": "SEC_ABSOLUTES", "squares": "SEC_SQUARES",
    "exponentials": "SEC_EXPONENTIALS", "highest": "SEC_HIGHEST", "lowest": "SEC_LOWEST",
    "product": "SEC_PRODUCT",
}  # fmt: skip
"""Ways to fold, as `fold.h` names them."""

_ALIGNED = "__attribute__((aligned(64)))"


@dataclass(frozen=True)
class Form:
    """Units of one kind.

    Attributes:
        kept: loops over units. walk: loops over what a unit folds. Steps are those of all pointers.
        lane: the units side by side in a vector, their number and the steps between them.
        start: by pointer, elements to the first unit.
        rows: neighbours in memory are folded, by vectors.
        real: where lanes hold parts, some of them not whole: by axis of `walk`, how many of its
            positions are real in each lane.
        dtype: of the elements.
    """

    kept: tuple[Axis, ...]
    walk: tuple[Axis, ...]
    lane: Axis | None
    start: tuple[int, ...]
    rows: bool
    real: tuple[tuple[int, ...] | None, ...]
    dtype: np.dtype[np.generic]

    @property
    def width(self) -> int:
        """Units side by side."""
        return self.lane.extent if self.lane else 1


class Folding:
    """Writes the C of a kernel that folds its first value.

    Args:
        values: (place, its axis -> axis of the first value); the first is folded, others are
            read or written beside it.
        folded: loops that are folded, by their number in `axes`.
        lanes: floats of a vector.
        outputs: how many of the values, the last ones, are written.
        axes: (loop, axis of the first value that it goes along); by default one for each axis.
    """

    def __init__(
        self,
        values: Sequence[tuple[Place, Carried]],
        folded: Sequence[int],
        lanes: int,
        outputs: int = 1,
        axes: Sequence[tuple[Axis, int]] | None = None,
    ) -> None:
        self.values = [place for place, _ in values]
        self.vector = lanes
        self.body = Body()
        layout = self.values[0].layout
        found, side = spread(layout, [(p.layout, where) for p, where in values[1:]])
        loops = axes or [(axis, a) for a, axis in enumerate(found)]
        along = {loops[n][1] for n in folded}
        self.kept = [axis for n, (axis, _) in enumerate(loops) if n not in folded]
        self.walk = [loops[n][0] for n in folded]
        self.side = side
        self.across = not along.isdisjoint(layout.cut.as_dict())
        self.real = [_real(self.values[0], loops[n][1]) if self.across else None for n in folded]
        read = len(values) - outputs
        self.kinds = [f"{'const ' if k < read else ''}{p.c}" for k, p in enumerate(self.values)]
        for k, (kind, place) in enumerate(zip(self.kinds, self.values, strict=True)):
            self.body.line(f"{kind} *v{k} = {place.ref};")

    def forms(self) -> Iterator[Form]:
        """Yield the kinds of units; what is done for each of them is to be written in turn."""
        kept, walk = by_memory(self.kept), by_memory(self.walk)
        real = [r for _, r in sorted(zip(self.walk, self.real, strict=True), key=_stride)]
        none = (0,) * len(self.values)
        dtype = self.values[0].dtype
        single = dtype == np.float32

        def form(
            kept: Sequence[Axis],
            lane: Axis | None = None,
            start: tuple[int, ...] = none,
            rows: bool = False,
            walk: Sequence[Axis] = tuple(walk),
        ) -> Form:
            ends = tuple(real) + (None,) * (len(walk) - len(real))
            loops = tuple(merged(kept))
            return Form(loops, tuple(walk), lane, start, rows, ends, dtype)

        if prod(axis.extent for axis in kept) == 0:
            return
        if self.across:
            yield form(kept, rows=True, walk=[*walk, *self.side])
            return
        if not single or len(self.side) > 1:
            yield form([*kept, *self.side])
            return
        loops = merged([*kept, *self.side])
        beside = next((a for a in reversed(loops) if a.steps[0] == 1), None)
        if beside is None:
            last = merged(only(walk, 0))
            yield form(loops, rows=bool(last) and last[-1].steps[0] == 1)
            return
        rest = [a for a in loops if a is not beside]
        width = self._width(prod(a.extent for a in rest), beside.extent)
        whole, part = divmod(beside.extent, width)
        if whole:
            many = Axis(whole, tuple(step * width for step in beside.steps))
            yield form([*rest, many], Axis(width, beside.steps))
        if part:
            start = tuple(step * whole * width for step in beside.steps)
            yield form(rest, Axis(part, beside.steps), start)

    def _width(self, rows: int, extent: int) -> int:
        """Return how many units to work on side by side: up to four vectors of them.

        What is far apart is then read in long pieces. Each of two threads should have its share.
        """
        vectors = rows * -(-extent // self.vector)
        return self.vector * max(1, min(4, vectors // 2, extent // self.vector))

    def open(self, form: Form, weight: int = 1) -> int:
        """Open the loops over units, in which `u0`, `u1`, ... point to a unit of each value."""
        work = prod(a.extent for a in form.walk) * form.width * weight
        pointers = [Pointer(kind, f"v{k} + {form.start[k]}L") for k, kind in enumerate(self.kinds)]
        return units(self.body, form.kept, pointers, "u", work)

    def close(self, opened: int) -> None:
        """Close the loops over units."""
        self.body.close(opened)

    def fold(self, form: Form, name: str, how: str, *, of: int = 0, shift: str = "") -> None:
        """Fold a value: `name[0]`, ... are the results of the units side by side.

        Args:
            form: of the units.
            name: an array of C that is declared.
            how: see `NAMES`.
            of: the value.
            shift: an array that is subtracted, of "squares" and "exponentials".
        """
        if any(form.real):
            self._fold_parts(form, name, how, of, shift)
        elif form.rows or form.lane:
            self._fold_vectors(form, name, how, of, shift)
        else:
            self._fold_each(form, name, how, of, shift)

    def _fold_vectors(self, form: Form, name: str, how: str, of: int, shift: str) -> None:
        body, kind = self.body, NAMES[how]
        walk = merged(only(form.walk, of))
        if form.rows and (not walk or walk[-1].steps[0] != 1):
            walk.append(Axis(1, (1,)))
        outer, inner = (walk[:-1], walk[-1]) if walk else ([], Axis(1, (0,)))
        body.line(f"vec {name}_[4] = SEC_FOLDS({kind});")
        names = [f"w{n}" for n in range(len(outer))]
        opened = body.loops([a.extent for a in outer], names, shared=False)
        source = f"u{of} + {at(names, outer, 0)}"
        inputs = f"{source}, {inner.extent}"
        if form.rows:
            moved = f"{shift}[0]" if shift else "0"
            body.line(f"sec_fold_row({kind}, {name}_, {moved}, {inputs});")
        elif form.width > self.vector:
            inputs += f", {inner.steps[0]}, {form.width}"
            body.line(f"sec_fold_columns({kind}, {name}_, {shift or '0'}, {inputs});")
        else:
            inputs += f", {inner.steps[0]}, {form.width}"
            moved = f"*(const vec *){shift}" if shift else "sec_all(0)"
            body.line(f"sec_fold_column({kind}, {name}_, {moved}, {inputs});")
        body.close(opened)
        self._join(form, name, kind)

    def _join(self, form: Form, name: str, kind: str) -> None:
        """Declare the results of a fold by vectors."""
        if form.rows:
            all_lanes = f"sec_all_lanes({kind}, sec_folded({kind}, {name}_))"
            self.body.line(f"float {name}[1] = {{{all_lanes}}};")
            return
        if form.width <= self.vector:
            self.body.line(f"{name}_[0] = sec_folded({kind}, {name}_);")
        self.body.line(f"float {name}[{self._size(form)}] {_ALIGNED};")
        self.body.line(f"memcpy({name}, {name}_, sizeof {name});")

    def _size(self, form: Form) -> int:
        """Return how many elements an array of one for each unit has: whole vectors."""
        return -(-form.width // self.vector) * self.vector if form.lane else 1

    def _fold_parts(self, form: Form, name: str, how: str, of: int, shift: str) -> None:
        """Fold lanes that hold parts of which some positions are not real."""
        body, kind = self.body, NAMES[how]
        moved = f"{shift}[0]" if shift else "0"
        body.line(f"vec {name}_[4] = SEC_FOLDS({kind});")
        walk = form.walk[: len(form.walk) - len(self.side)]
        names = [f"w{n}" for n in range(len(walk))]
        opened = body.loops([a.extent for a in walk], names, shared=False)
        body.line("veci there = (veci){0} - 1;")
        for axis, lanes in zip(names, form.real, strict=False):
            if lanes is not None:
                body.line(
                    f"{{ static const veci end = {{{', '.join(map(str, lanes))}}}; "
                    f"there &= end > (veci){{0}} + (int){axis}; }}"
                )
        body.line(f"const vec x = *(const vec *)(u{of} + {at(names, walk, of)});")
        fill = f"sec_all(sec_neutral({kind}, {moved}))"
        body.line(
            f"{name}_[0] = sec_fold({kind}, {name}_[0], sec_pick(there, x, {fill}), "
            f"sec_all({moved}));"
        )
        body.close(opened)
        self._join(form, name, kind)

    def _fold_each(self, form: Form, name: str, how: str, of: int, shift: str) -> None:
        body, place = self.body, self.values[of]
        body.line(f"{place.c} {name}[1] = {{{_nothing(how, place.dtype)}}};")
        walk = merged(only(form.walk, of))
        names = [f"w{n}" for n in range(len(walk))]
        body.open("")
        opened = 1 + body.loops([a.extent for a in walk], names, shared=False)
        body.line(f"const {place.c} x = u{of}[{at(names, walk, 0)}];")
        less = f" - {shift}[0]" if shift else ""
        body.line(f"{name}[0] = {_once(how, place.dtype, f'{name}[0]', f'(x{less})')};")
        body.close(opened)

    def array(self, form: Form, name: str, expression: str, c: str = "") -> None:
        """Declare an array of one element for each unit, from an expression of `l`."""
        kind = c or self.values[0].c
        self.body.line(f"{kind} {name}[{self._size(form)}] {_ALIGNED} = {{0}};")
        self.body.line(f"for (int l = 0; l < {form.width}; l++) {name}[l] = {expression};")

    def store(self, form: Form, to: int, expression: str) -> None:
        """Write one element for each unit into a value, from an expression of `l`."""
        step = form.lane.steps[to] if form.lane else 0
        self.body.line(f"for (int l = 0; l < {form.width}; l++) u{to}[l*{step}L] = {expression};")

    def apply(
        self, form: Form, to: int, read: Sequence[int], arrays: Sequence[str], expression: str,
        weight: int = 1,
    ) -> None:  # fmt: skip
        """Write every element of a unit: an expression of `x0`, ...: values, then arrays.

        Args:
            form: of the units.
            to: the value that is written.
            read: values that the expression reads.
            arrays: arrays of one element for each unit that it reads after them.
            expression: C.
            weight: its cost, in additions.
        """
        order = (to, *read)
        own = (int(form.lane is not None),) * len(arrays)
        axes = [Axis(a.extent, a.steps + (0,) * len(arrays)) for a in only(form.walk, *order)]
        if form.lane:
            (lane,) = only([form.lane], *order)
            axes.append(Axis(lane.extent, lane.steps + own))
        inputs = [Pointer(self.values[k].c, f"u{k}") for k in read]
        kind = self.values[0].c
        inputs += [Pointer(kind, name) for name in arrays]
        out = Pointer(self.values[to].c, f"u{to}")
        each(self.body, axes, out, inputs, expression, weight=weight, alone=True)

    def text(self) -> str:
        """Return the statements."""
        return self.body.text()


def _stride(pair: tuple[Axis, object]) -> int:
    return -pair[0].steps[0]


def _real(place: Place, axis: int) -> tuple[int, ...] | None:
    """Return by lane how many positions of an axis are real; None where all are, in all lanes."""
    layout = place.layout
    extent, block, grid = layout.shape[axis], layout.blocks[axis], layout.grid[axis]
    if grid == 1:
        return None
    used = prod(layout.grid)
    ends = [
        min(block, max(0, extent - lane // layout.lane_strides[axis] % grid * block))
        if lane < used
        else 0
        for lane in range(layout.lanes)
    ]
    return None if min(ends) == block else tuple(ends)


def _nothing(how: str, dtype: np.dtype[np.generic]) -> str:
    """Return what a fold of single elements begins with, as C."""
    if how in ("highest", "lowest"):
        sign = -1 if how == "highest" else 1
        if dtype.kind == "f":
            return literal(sign * np.inf, dtype)
        if dtype.kind == "b":
            return str(int(sign > 0))
        info = np.iinfo(dtype.name)
        return literal(info.min if sign < 0 else info.max, dtype)
    return "1" if how == "product" else "0"


def _once(how: str, dtype: np.dtype[np.generic], a: str, x: str) -> str:
    """Return one step of a fold of single elements, as C."""
    size = f"(fabs({x}))" if dtype.kind == "f" else f"({x} < 0 ? -{{}}{x} : {{}}{x})"
    text = {
        "absolutes": f"{{}}{a} + {size}",
        "squares": f"{{}}{a} + {{}}{x} * {{}}{x}",
        "exponentials": f"{a} + exp{'f' if dtype == np.float32 else ''}({x})",
        "product": f"{{}}{a} * {{}}{x}",
        "sum": f"{{}}{a} + {{}}{x}",
        "highest": f"SEC_MAXIMUM({a}, {x})",
        "lowest": f"SEC_MINIMUM({a}, {x})",
    }[how]
    return text if how in ("highest", "lowest") else wrapped(dtype, text)
