"""Operators that treat channels alike: norms, pooling, reductions over other dimensions."""

from __future__ import annotations

import re
from dataclasses import replace

from secateur.model.inputs import tensors_in
from secateur.pruning.channels.labels import Grid, Labels, over_channels, varying
from secateur.pruning.channels.tracing import Call, Tracer

PLANES = re.compile(
    r"_?(?:adaptive_|lp_|fractional_)?(?:max|avg)_pool(\d)d(?:_with_indices)?"
    r"|_?upsample_\w*?(\d)d(?:_aa)?|(?:reflection|replication)_pad(\d)d|grid_sampler_(\d)d"
)
"""Operators on planes; one of their groups holds the number of spatial dimensions."""


def spatial(tracer: Tracer, call: Call) -> None:
    """Rule of pooling, resizing, sampling and padding with values of the plane."""
    found = PLANES.fullmatch(call.name)
    assert found is not None
    ndim = int(next(count for count in found.groups() if count))
    x = call.tensors[0]
    why = tracer.reason(f"is a position of aten.{call.name}")
    tracer.block(call.tensors[1:], why)
    labels = tracer.ledger.fix(tracer.labels(x), range(-ndim, 0), why)
    padded = "avg_pool" in call.name and any(call.get("padding") or ())
    pure = labels.pure and not padded and "grid" not in call.name and "cubic" not in call.name
    for out in tensors_in(call.out):
        if out.is_floating_point():
            tracer.put(out, replace(labels, pure=pure, weight=False))


def batch_norm(tracer: Tracer, call: Call) -> None:
    """Rule of batch_norm and instance_norm: scale, shift and statistics belong to a channel."""
    x = call.get("input")
    own = {name: call.get(name) for name in ("weight", "bias", "running_mean", "running_var")}
    operands = [
        tracer.labels(x),
        *(over_channels(tracer.labels(t), x.dim()) for t in own.values() if t is not None),
    ]
    tied = tracer.ledger.tie(
        operands, x.dim(), tracer.reason("is normalised beside fixed channels")
    )
    zero = own["weight"] is not None and own["bias"] is not None
    pure = operands[0].pure and own["running_mean"] is not None
    tracer.put(call.out, Labels((), tuple(t.grid for t in tied), zero=zero, pure=pure))


def norm_over_channels(tracer: Tracer, call: Call) -> None:
    """Rule of norms over channels, whose statistics depend on how many there are."""
    x = call.get("input")
    first = 1 if call.name == "group_norm" else x.dim() - len(call.get("normalized_shape"))
    why = tracer.reason(f"{call.name} takes statistics over channels")
    tracer.block([call.get("weight"), call.get("bias")], why)
    labels = tracer.ledger.fix(tracer.labels(x), range(first, x.dim()), why)
    tracer.put(call.out, replace(labels, zero=False, pure=False))


ZERO = {"sum", "mean", "amax", "amin", "max", "min", "cumsum", "var", "std", "norm", "sort", "topk"}
"""Reductions that give zero for zeros."""
PURE = {"mean", "amax", "amin", "max", "min", "sum"}
"""Reductions that give a constant channel for constants."""


def reduction(tracer: Tracer, call: Call) -> None:
    """Rule of operators that combine elements along some dimensions, which they may reduce."""
    x = call.tensors[0]
    labels = tracer.labels(x)
    dims = _dims(call, x.dim())
    if call.name == "sum" and labels.zero:
        ended = [grid for grid in labels.grids if varying(grid) <= dims]
        for grid in ended:
            tracer.note_read(replace(labels, pure=False), grid)
        rest = tuple(grid for grid in labels.grids if not varying(grid) <= dims)
        labels = replace(labels, grids=rest)
    why = tracer.reason(f"aten.{call.name} looks along channels")
    labels = tracer.ledger.fix(labels, dims, why)
    labels = replace(
        labels,
        zero=labels.zero and call.name in ZERO,
        pure=labels.pure and call.name in PURE,
        weight=False,
    )
    reduced = replace(labels, grids=tuple(_without(grid, dims) for grid in labels.grids))
    for out in tensors_in(call.out):
        if out.is_floating_point():
            tracer.put(out, reduced if out.dim() < x.dim() else labels)


def _dims(call: Call, ndim: int) -> frozenset[int]:
    given = call.get("dim")
    if isinstance(given, int):
        return frozenset([given % ndim])
    return frozenset(d % ndim for d in given) if given else frozenset(range(ndim))


def _without(grid: Grid, dims: frozenset[int]) -> Grid:
    for d in sorted(dims, reverse=True):
        grid = grid.select(d, 0)
    return grid


RULES = {
    **dict.fromkeys(("batch_norm", "instance_norm"), batch_norm),
    **dict.fromkeys(("layer_norm", "rms_norm", "group_norm"), norm_over_channels),
    **dict.fromkeys(("sum", "mean", "amax", "amin", "max", "min", "prod", "var", "std"), reduction),
    **dict.fromkeys(("var_mean", "std_mean", "logsumexp", "norm", "linalg_vector_norm"), reduction),
    **dict.fromkeys(
        ("softmax", "log_softmax", "_softmax", "_log_softmax", "_safe_softmax"), reduction
    ),
    **dict.fromkeys(("cumsum", "cumprod", "sort", "topk", "argmax", "argmin"), reduction),
}
