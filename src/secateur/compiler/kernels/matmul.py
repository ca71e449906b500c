"""Products of two activations: `MatMul`, and `Gemm` whose B is not constant.

Axes of the two operands, of C and of the output are known by their role: an int for axis n of the
batch, "i" for rows, "j" for columns, "k" for what is summed over. A product is put in lanes in one
of three ways: along the batch (both operands are vectors), along the rows (B is read as scalars,
wherever they lie) or along the columns (A is). What is not cut is worked on along the columns, a
vector of them at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from secateur.compiler.graph import Node
from secateur.compiler.kernels import Body, Kernel, Machine, Place, Step, Types, lane
from secateur.compiler.kernels.elementwise import floating
from secateur.compiler.layout import Cut, Layout

Role = int | str
Roles = dict[Role, int]
"""Role -> axis."""
Lanes = dict[Role, tuple[int, int]]
"""Role -> how its axis is cut, as `Cut` has it."""

READ = 0.1
"""Cost of reading a vector or a scalar beside multiply-adds of vectors, of which it hides most."""

LATENCY = 8.0
"""Multiply-adds of vectors that must be under way at once."""

CACHE = 44 * 1024
"""Bytes of both operands that a tile may read before the next one reads half of them again."""

ROWS = 8
"""Rows of tiles that are worked off together, and by one thread."""


@dataclass(frozen=True)
class Form:
    """Which axis of each value has which role."""

    a: Roles
    b: Roles
    c: Roles
    y: Roles

    def of(self, index: int) -> Roles:
        """Return the roles of the axes of an input."""
        return (self.a, self.b, self.c)[index]


def form(node: Node, ranks: Sequence[int], rank: int) -> Form:
    """Return the roles of a node's axes; the batch's are numbered as the output has them.

    Args:
        node: a MatMul or Gemm.
        ranks: of A, B and C; 0 where C is absent.
        rank: of the output.
    """
    a, b, c = (*ranks, 0)[:3]
    if node.op == "Gemm":
        return Form(
            {"k": 0, "i": 1} if node.get("transA", 0) else {"i": 0, "k": 1},
            {"j": 0, "k": 1} if node.get("transB", 0) else {"k": 0, "j": 1},
            {role: axis for axis, role in enumerate(("i", "j")[2 - c :])},
            {"i": 0, "j": 1},
        )
    ends: tuple[Role, ...] = (*("i",) * (a > 1), *("j",) * (b > 1))
    batch = rank - len(ends)

    def roles(count: int, last: Sequence[Role]) -> Roles:
        rest = count - len(last)
        mine: Roles = {n + batch - rest: n for n in range(rest)}
        return mine | {role: rest + n for n, role in enumerate(last)}

    return Form(
        roles(a, ("i", "k") if a > 1 else ("k",)),
        roles(b, ("k", "j") if b > 1 else ("k",)),
        {},
        roles(rank, ends),
    )


def _form(node: Node, types: Types) -> Form:
    ranks = [len(types[name].shape) if name else 0 for name in node.inputs]
    return form(node, ranks, len(types[node.outputs[0]].shape))


def cuts(
    node: Node, types: Types, given: Sequence[Cut], _machine: Machine, _batch: bool
) -> tuple[list[Cut | None], list[Cut]]:
    """Cut the output as A or B is: along the batch, A's rows or B's columns."""
    roles, out = _form(node, types), types[node.outputs[0]]
    own = [
        {role: cut.as_dict()[axis] for role, axis in roles.of(n).items() if axis in cut.as_dict()}
        for n, cut in enumerate(given)
    ]

    def whole(n: int, role: Role) -> bool:
        """Whether an input has all that the output has along a role."""
        shape = types[node.inputs[n]].shape
        return role in roles.of(n) and shape[roles.of(n)[role]] == out.shape[roles.y[role]]

    chosen = _followed(own, whole, rows_or_columns=out.dtype == np.float32)
    wanted: list[Cut | None] = []
    for n, name in enumerate(node.inputs):
        mine = {r: lanes for r, lanes in chosen.items() if name and whole(n, r)}
        free = {"k", "j"} if "i" in chosen else {"k", "i"} if "j" in chosen else set()
        if n < 2 and not mine and set(own[n]) <= free:
            wanted.append(None)  # scalars are read wherever they lie
        else:
            wanted.append(Cut.of({roles.of(n)[r]: lanes for r, lanes in mine.items()}))
    return wanted, [Cut.of({roles.y[r]: lanes for r, lanes in chosen.items()})]


def _followed(
    own: Sequence[Lanes], whole: Callable[[int, Role], bool], *, rows_or_columns: bool
) -> Lanes:
    """Return the cut of A or B that the output takes over: one along the batch if there is any."""
    batch = (n for n in (0, 1) if all(isinstance(role, int) and whole(n, role) for role in own[n]))
    single = (n for n, role in enumerate(("i", "j")) if rows_or_columns and set(own[n]) == {role})
    return next((own[n] for n in (*batch, *single) if own[n]), {})


def order(
    node: Node, types: Types, _layouts: Sequence[Layout | None], cut: Cut
) -> Sequence[int] | None:
    """Rows innermost: columns of several heads are then one axis of a reshape, without a copy."""
    roles = _form(node, types).y
    if not cut.axes or roles.get("j") in cut.as_dict():
        return None
    batch = [axis for role, axis in roles.items() if isinstance(role, int)]
    return [*batch, *(roles[role] for role in ("j", "i") if role in roles)]


def emit(node: Node, inputs: Sequence[Place | None], outputs: Sequence[Place], step: Step) -> str:
    """Write the loops over tiles of all pairs, or over elements where they are not float32."""
    a, b, c = (*inputs, None)[:3]
    assert a is not None
    assert b is not None
    y = outputs[0]
    ranks = [len(place.layout.shape) if place else 0 for place in (a, b, c)]
    roles = form(node, ranks, len(y.layout.shape))
    if prod(y.layout.blocks) == 0:
        return ""
    if y.dtype != np.float32:
        return _elements(node, roles, a, b, c, y)
    return _tiles(node, roles, a, b, c, y, step.machine)


@dataclass(frozen=True)
class _Side:
    """One operand, read along its own role and along k; everything 0 or 1 where it has no axis."""

    place: Place
    roles: Roles

    def stride(self, role: Role) -> int:
        """Floats from one position to the next; 0 where there is one position for all."""
        axis = self.roles.get(role)
        if axis is None or self.place.layout.shape[axis] == 1:
            return 0
        return self.place.layout.strides[axis]

    def block(self, role: Role) -> int:
        """The block that the role's axis is cut into; 1 where it is not cut."""
        axis = self.roles.get(role)
        cut = axis is not None and self.place.layout.grid[axis] > 1
        return self.place.layout.blocks[axis] if cut and axis is not None else 1

    def hop(self, role: Role) -> int:
        """Floats from one block to the next of a cut axis, else from one position to the next."""
        axis = self.roles.get(role)
        if axis is not None and self.place.layout.grid[axis] > 1:
            return self.place.layout.lane_strides[axis]
        return self.stride(role)

    def varies(self, cut: Sequence[Role]) -> bool:
        """Whether it lies in the lanes along the axes that the output is cut along."""
        return any(
            role in self.roles and self.place.layout.grid[self.roles[role]] > 1 for role in cut
        )

    def at(self, batch: Sequence[tuple[Role, int]], pair: str) -> str:
        """Return C: where the operand of a pair begins, the pairs being counted through."""
        terms, below = [self.place.ref], prod(n for _, n in batch)
        for role, n in batch:
            below //= max(1, n)
            if stride := self.stride(role):
                terms.append(f"{pair} / {below} % {n} * {stride}")
        return " + ".join(terms)


def _tiles(
    node: Node, roles: Form, a: Place, b: Place, c: Place | None, y: Place, machine: Machine
) -> str:
    left, right, out = _Side(a, roles.a), _Side(b, roles.b), _Side(y, roles.y)
    extra = _Side(c or y, roles.c)  # without C there are no roles, and it stays where it is
    plain = y.layout.lanes == 1
    cut = [role for role, axis in roles.y.items() if y.layout.grid[axis] > 1]
    by_row = not plain and left.varies(cut) and "j" not in cut
    v, s, p, q = (left, right, "i", "j") if by_row else (right, left, "j", "i")
    count = y.layout.blocks[roles.y[p]] if p in roles.y else 1
    width = y.layout.shape[roles.y[q]] if q in roles.y else 1
    depth = a.layout.shape[roles.a["k"]]
    lanes = machine.lanes if plain else 1  # positions a vector covers
    vectors, tail = divmod(count, lanes)
    tp, tq = tile(vectors, -(-width // s.block(q)), machine)
    both = s.varies(cut)
    numbers = (
        depth, s.block("k"), width, s.block(q), vectors, tail,
        (v.stride(p) or 1) if plain else 0, v.stride(p) * lanes, v.stride("k"),
        s.stride("k"), s.hop("k"), s.stride(q), s.hop(q),
        out.stride(p) * lanes, out.stride(q),
        extra.stride(p) * lanes, extra.stride(q),
        int(both), int(extra.stride(p) > 0 if plain else extra.varies(cut)),
        floating(node.get("alpha", 1.0)), floating(node.get("beta", 1.0)),
    )  # fmt: skip
    row = 4 * (tp * machine.lanes + tq * (machine.lanes if both else 1))  # bytes a step of k reads
    k_step = -(-depth // max(1, -(-depth * row // CACHE))) if s.block("k") == 1 else depth
    size = f"{ROWS}, {tp}, {tq}"
    batch = [(r, y.layout.blocks[axis]) for r, axis in roles.y.items() if isinstance(r, int)]
    pairs = prod(n for _, n in batch)
    body = Body()
    body.line(f"const sec_product g = {{{', '.join(map(str, numbers))}}};")
    body.line(f"const long units = sec_product_units(&g, {size}), all = {pairs} * units;")
    body.open("for (long u = sec_share(all, t, T); u < sec_share(all, t + 1, T); u++)")
    pair = "u / units"
    added = extra.at(batch, pair) if c else "0"
    sides = f"{v.at(batch, pair)}, {s.at(batch, pair)}, {added}, {out.at(batch, pair)}"
    body.line(f"sec_product_unit(&g, {sides}, u % units, {max(1, k_step)}, {size});")
    body.close()
    return body.text()


def tile(vectors: int, width: int, machine: Machine) -> tuple[int, int]:
    """Return how many vectors by how many of the other side to keep in registers."""
    best = (float("inf"), 0, 1, 1)
    for tp in range(1, min(max(vectors, 1), 8) + 1):
        for tq in range(1, min(width, 12) + 1):
            if tp * tq + tp + 1 > machine.registers:
                continue
            cost = 0.0
            for a, times_a in ((tp, max(vectors, 1) // tp), (max(vectors, 1) % tp, 1)):
                for b, times_b in ((tq, width // tq), (width % tq, 1)):
                    if a and b:
                        work = max(a * b, a + b, LATENCY) + READ * (a + b)
                        cost += times_a * times_b * work
            best = min(best, (round(cost, 6), -tp * tq, tp, tq))
    return best[2], best[3]


def _elements(node: Node, roles: Form, a: Place, b: Place, c: Place | None, y: Place) -> str:
    """Element by element, of any type; samples may be in the lanes."""
    body = Body()
    names: dict[Role, str] = {r: f"n{r}" if isinstance(r, int) else r for r in roles.y}
    names["k"] = "k"
    axes = sorted(roles.y, key=lambda r: y.layout.order.index(roles.y[r]))
    opened = body.loops([y.layout.blocks[roles.y[r]] for r in axes], [names[r] for r in axes])
    if y.layout.lanes > 1:
        body.lanes(y.layout.lanes)
        opened += 1

    def element(place: Place, own: Roles) -> str:
        index = [""] * len(place.layout.shape)
        for role, axis in own.items():
            index[axis] = names[role] if place.layout.shape[axis] > 1 else "0"
        return f"{place.ref}[{place.at(index)}{lane(place)}]"

    body.line(f"{y.c} sum = 0;")
    body.open(f"for (long k = 0; k < {a.layout.shape[roles.a['k']]}; k++)")
    body.line(f"sum += {element(a, roles.a)} * {element(b, roles.b)};")
    body.close()
    total = _scaled("sum", node.get("alpha", 1.0))
    if c:
        total += " + " + _scaled(element(c, roles.c), node.get("beta", 1.0))
    body.line(f"{element(y, roles.y)} = ({y.c})({total});")
    body.close(opened)
    return body.text()


def _scaled(value: str, factor: float) -> str:
    return value if factor == 1 else f"{float(factor).hex()} * (double){value}"


KERNELS = (Kernel(ops=("MatMul", "Gemm"), emit=emit, cuts=cuts, order=order, tight=True),)
