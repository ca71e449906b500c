"""Reductions over axes, positions of extremes, running sums."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from types import MappingProxyType

import numpy as np

from secateur.compiler.graph import Node
from secateur.compiler.kernels import Carry, Kernel, Machine, Place, Step, Types, carried
from secateur.compiler.kernels.expressions import literal
from secateur.compiler.kernels.folding import Folding
from secateur.compiler.layout import PLAIN, Cut, Layout
from secateur.compiler.ops.reduction import reduced_axes

Finish = Callable[[np.dtype[np.generic], int], str]
"""(dtype, how many were folded) -> C of the result, from `a[l]`."""


def _root(dtype: np.dtype[np.generic], _count: int) -> str:
    if dtype == np.float32:
        return "sqrtf(a[l])"
    return "sqrt(a[l])" if dtype.kind == "f" else "sqrt((double)a[l])"


def _mean(dtype: np.dtype[np.generic], count: int) -> str:
    if dtype.kind == "f":
        return f"a[l] / {literal(count, dtype)}"
    return f"(double)a[l] / {count}.0"


def _log(dtype: np.dtype[np.generic], _count: int) -> str:
    return "sec_log(a[l])" if dtype == np.float32 else "log(a[l])"


FOLDS: Mapping[str, tuple[str, Finish]] = MappingProxyType({
    "ReduceL1": ("absolutes", lambda *_: "a[l]"),
    "ReduceL2": ("squares", _root),
    "ReduceLogSum": ("sum", _log),
    "ReduceLogSumExp": ("exponentials", lambda *all_: f"{_log(*all_)} + shift[l]"),
    "ReduceMax": ("highest", lambda *_: "a[l]"),
    "ReduceMean": ("sum", _mean),
    "ReduceMin": ("lowest", lambda *_: "a[l]"),
    "ReduceProd": ("product", lambda *_: "a[l]"),
    "ReduceSum": ("sum", lambda *_: "a[l]"),
    "ReduceSumSquare": ("squares", lambda *_: "a[l]"),
})  # fmt: skip
"""Operator -> what it folds, and what it makes of that."""


def _axes(node: Node, given: np.ndarray | None, rank: int) -> tuple[int, ...]:
    values = None if given is None else tuple(int(axis) for axis in given.reshape(-1))
    return reduced_axes(node, values, rank)


def _known(node: Node, types: Types) -> tuple[int, ...]:
    """Return the reduced axes, when a node is planned."""
    name = (*node.inputs, "")[1]
    return _axes(node, types[name].value if name else None, len(types[node.inputs[0]].shape))


def _kept(node: Node, rank: int, axes: Sequence[int]) -> dict[int, int]:
    """Return, for each axis of the input that is kept, which of the output it is."""
    if node.get("keepdims", 1):
        return {a: a for a in range(rank) if a not in axes}
    return {a: k for k, a in enumerate(a for a in range(rank) if a not in axes)}


def cuts(
    node: Node, types: Types, given: Sequence[Cut], _machine: Machine, _batch: bool
) -> tuple[list[Cut | None], list[Cut]]:
    """Carry what is cut along kept axes; lanes that hold parts of what is reduced are added up."""
    axes, x = _known(node, types), types[node.inputs[0]]
    rest: list[Cut | None] = [PLAIN] * (len(node.inputs) - 1)
    if given[0].axes and given[0].within(set(axes)) and x.dtype == np.float32:
        return [given[0], *rest], [PLAIN]
    maps: list[Carry | None] = [_kept(node, len(x.shape), axes), *(None for _ in rest)]
    wanted, out = carried(node, types, given, maps)
    return wanted, [out]


def order(
    node: Node, types: Types, layouts: Sequence[Layout | None], _cut: Cut
) -> Sequence[int] | None:
    """Keep the order of the input."""
    if layouts[0] is None:
        return None
    rank, axes = len(layouts[0].shape), _known(node, types)
    if node.get("keepdims", 1):
        return layouts[0].order
    where = _kept(node, rank, axes)
    return [where[a] for a in layouts[0].order if a in where]


def emit(node: Node, inputs: Sequence[Place | None], outputs: Sequence[Place], step: Step) -> str:
    """Fold, and finish each result."""
    x, given = (*inputs, None)[:2]
    assert x is not None
    rank = len(x.layout.shape)
    axes = _axes(node, None if given is None else given.constant, rank)
    back = {out: a for a, out in _kept(node, rank, axes).items()}
    how, finish = FOLDS[node.op]
    f = Folding([(x, {}), (outputs[0], back)], axes, step.machine.lanes)
    for form in f.forms():
        opened = f.open(form)
        shift = ""
        if how == "exponentials":
            f.fold(form, "most", "highest")
            # infinities stay what they are: they are not taken from themselves
            size = "fabsf" if x.dtype == np.float32 else "fabs"
            f.array(form, "shift", f"{size}(most[l]) < INFINITY ? most[l] : 0")
            shift = "shift"
        f.fold(form, "a", how, shift=shift)
        count = prod(x.layout.shape[a] for a in axes)
        f.store(form, 1, finish(x.dtype, count))
        f.close(opened)
    return f.text()


def _position_axis(node: Node, rank: int) -> int:
    return int(node.get("axis", 0)) % rank


def _position_cuts(
    node: Node, types: Types, given: Sequence[Cut], _machine: Machine, _batch: bool
) -> tuple[list[Cut | None], list[Cut]]:
    rank = len(types[node.inputs[0]].shape)
    maps: list[Carry | None] = [_kept(node, rank, [_position_axis(node, rank)])]
    wanted, out = carried(node, types, given, maps)
    return wanted, [out]


def _position(
    node: Node, inputs: Sequence[Place | None], outputs: Sequence[Place], step: Step
) -> str:
    """Keep the best so far and where it was; the first NaN is the best of all."""
    x = inputs[0]
    assert x is not None
    rank = len(x.layout.shape)
    axis = _position_axis(node, rank)
    back = {out: a for a, out in _kept(node, rank, [axis]).items()}
    sign = ">" if node.op == "ArgMax" else "<"
    last = node.get("select_last_index", 0)
    better = f"v {sign}{'=' if last else ''} best[l]"
    if x.dtype.kind == "f":
        better += " || (v != v)" if last else " || (v != v && best[l] == best[l])"
    f = Folding([(x, {}), (outputs[0], back)], [axis], step.machine.lanes)
    for form in f.forms():
        opened = f.open(form)
        (walk,) = form.walk
        beside = form.lane.steps[0] if form.lane else 0
        f.array(form, "best", f"u0[l*{beside}L]")
        f.array(form, "where", "0", "int32_t")
        f.body.open(f"for (int i = 1; i < {walk.extent}; i++)")
        f.body.open(f"for (int l = 0; l < {form.width}; l++)")
        f.body.line(f"const {x.c} v = u0[i*{walk.steps[0]}L + l*{beside}L];")
        f.body.line(f"const int new = {better};")
        f.body.line("best[l] = new ? v : best[l];")
        f.body.line("where[l] = new ? i : where[l];")
        f.body.close(2)
        f.store(form, 1, "where[l]")
        f.close(opened)
    return f.text()


def _running_carry(node: Node, types: Types) -> list[Carry | None]:
    value = types[node.inputs[1]].value
    assert value is not None
    rank = len(types[node.inputs[0]].shape)
    return [{a: a for a in range(rank) if a != int(value.item()) % rank}, None]


def _same_order(
    _node: Node, _types: Types, layouts: Sequence[Layout | None], _cut: Cut
) -> Sequence[int] | None:
    return layouts[0].order if layouts[0] is not None else None


def _running(
    node: Node, inputs: Sequence[Place | None], outputs: Sequence[Place], step: Step
) -> str:
    x, given = inputs[0], inputs[1]
    assert x is not None
    assert given is not None
    assert given.constant is not None
    rank = len(x.layout.shape)
    axis = int(given.constant.item()) % rank
    f = Folding([(x, {}), (outputs[0], {a: a for a in range(rank)})], [axis], step.machine.lanes)
    for form in f.forms():
        opened = f.open(form)
        (walk,) = form.walk
        read, write = form.lane.steps if form.lane else (0, 0)
        f.array(form, "sum", "0", "double" if x.dtype == np.float32 and not form.lane else "")
        place = f"{walk.extent - 1} - i" if node.get("reverse", 0) else "i"
        f.body.open(f"for (long i = 0; i < {walk.extent}; i++)")
        f.body.line(f"const long at = {place};")
        f.body.open(f"for (int l = 0; l < {form.width}; l++)")
        more = f"sum[l] += u0[at*{walk.steps[0]}L + l*{read}L];"
        keep = f"u1[at*{walk.steps[1]}L + l*{write}L] = sum[l];"
        f.body.line(f"{keep} {more}" if node.get("exclusive", 0) else f"{more} {keep}")
        f.body.close(2)
        f.close(opened)
    return f.text()


KERNELS = (
    Kernel(tuple(FOLDS), emit, cuts=cuts, order=order),
    Kernel(("ArgMax", "ArgMin"), _position, cuts=_position_cuts),
    Kernel(("CumSum",), _running, carry=_running_carry, order=_same_order),
)
