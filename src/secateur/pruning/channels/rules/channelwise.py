"""Operators that treat channels alike: norms, pooling, reductions over other dimensions."""

from __future__ import annotations

import re
from dataclasses import replace

from torch import Tensor

from secateur.model.inputs import tensors_in
from secateur.pruning.channels.labels import Grid, Labels, Operand, varied
from secateur.pruning.channels.rules.contraction import note
from secateur.pruning.channels.tracing import Call, Tracer

PLANES = re.compile(
    r"_?(?:adaptive_|lp_|fractional_)?(?:max|avg)_pool(\d)d(?:_with_indices)?"
    r"|_?upsample_\w*?(\d)d(?:_aa)?|(?:reflection|replication)_pad(\d)d|grid_sampler_(\d)d"
)
"""Operators on planes; one of their groups holds the number of spatial dimensions."""


def planes(tracer: Tracer, call: Call) -> None:
    """Rule of pooling, resizing and padding with values of the plane."""
    found = PLANES.fullmatch(call.name)
    assert found is not None
    spatial = int(next(count for count in found.groups() if count))
    x = call.tensors[0]
    labels = tracer.labels(x)
    tracer.block(call.tensors[1:], tracer.at(f"is a position of aten.{call.name}"))
    if labels is None:
        return
    dims = range(x.dim() - spatial, x.dim())
    grids = tracer.ledger.fix_all(labels, dims, tracer.at(f"is a position of aten.{call.name}"))
    padded = "avg_pool" in call.name and any(call.get("padding") or ())
    pure = labels.pure and not padded and "grid" not in call.name and "cubic" not in call.name
    for out in tensors_in(call.out):
        if out.is_floating_point():
            tracer.put(out, replace(labels, grids=grids, pure=pure, weight=False))


def batch_norm(tracer: Tracer, call: Call) -> None:
    """Rule of batch_norm and instance_norm: scale, shift and statistics belong to a channel."""
    x = call.get("input")
    view = (-1,) + (1,) * (x.dim() - 2)
    operands = [tracer.operand(x)]
    for name in ("weight", "bias", "running_mean", "running_var"):
        if isinstance(tensor := call.get(name), Tensor):
            labels = tracer.labels(tensor)
            grids = tuple(grid.reshape(view) for grid in labels.grids) if labels else ()
            shape = (tensor.numel(), *view[1:])
            operands.append(Operand(shape, labels and replace(labels, grids=grids)))
    met = tracer.ledger.meet(operands, x.dim(), tracer.at("is normalised beside fixed channels"))
    own = operands[0].labels
    tracer.put(
        call.out,
        Labels(
            tuple(m.grid for m in met),
            zero=call.get("weight") is not None and call.get("bias") is not None,
            pure=own is not None and own.pure and isinstance(call.get("running_mean"), Tensor),
        ),
    )


def normalised(tracer: Tracer, call: Call) -> None:
    """Rule of norms over channels: their statistics depend on how many there are."""
    x = call.get("input")
    if call.name == "group_norm":
        dims = list(range(1, x.dim()))
    else:
        dims = list(range(x.dim() - len(call.get("normalized_shape")), x.dim()))
    why = tracer.at(f"{call.name} takes statistics over channels")
    labels = tracer.labels(x)
    tracer.block([call.get("weight"), call.get("bias")], why)
    if labels:
        grids = tracer.ledger.fix_all(labels, dims, why)
        tracer.put(call.out, replace(labels, grids=grids, zero=False, pure=False))


ZERO = {"sum", "mean", "amax", "amin", "max", "min", "cumsum", "var", "std", "norm", "sort", "topk"}
PURE = {"mean", "amax", "amin", "max", "min", "sum"}


def along(tracer: Tracer, call: Call) -> None:
    """Rule of operators that look along some dimensions, and may reduce them."""
    x = call.tensors[0]
    labels = tracer.labels(x)
    if labels is None:
        return
    dims = _dims(call, x.dim())
    grids: tuple[Grid, ...] = labels.grids
    if call.name == "sum" and labels.zero:
        ended = tuple(grid for grid in grids if varied(grid) <= dims)
        for grid in ended:
            note(tracer, replace(labels, pure=False), grid, None, None, False)
        grids = tuple(grid for grid in grids if not varied(grid) <= dims)
    why = tracer.at(f"aten.{call.name} looks along channels")
    grids = tracer.ledger.fix_all(replace(labels, grids=grids), dims, why)
    for out in tensors_in(call.out):
        if out.is_floating_point():
            kept = grids
            if out.dim() < x.dim():
                kept = tuple(_without(grid, dims) for grid in grids)
            zero, pure = call.name in ZERO and labels.zero, call.name in PURE and labels.pure
            tracer.put(out, replace(labels, grids=kept, zero=zero, pure=pure, weight=False))


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
    **dict.fromkeys(("layer_norm", "rms_norm", "group_norm"), normalised),
    **dict.fromkeys(("sum", "mean", "amax", "amin", "max", "min", "prod", "var", "std"), along),
    **dict.fromkeys(("var_mean", "std_mean", "logsumexp", "norm", "linalg_vector_norm"), along),
    **dict.fromkeys(("softmax", "log_softmax", "_softmax", "_log_softmax", "_safe_softmax"), along),
    **dict.fromkeys(("cumsum", "cumprod", "sort", "topk", "argmax", "argmin"), along),
}
