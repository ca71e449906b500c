"""Operators that combine tensors element by element, with broadcasting."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from secateur.pruning.channels.labels import Labels, joint, varying
from secateur.pruning.channels.tracing import Call, Tracer

NAMES = ("hardswish", "leaky_relu", "_prelu_kernel", "rsub", "floor_divide")
"""Pointwise operators that some versions of torch do not mark as such."""

PROBES = (-1.7, 0.9, 2.3)
"""Values that stand in for any value."""


def pointwise(tracer: Tracer, call: Call) -> None:
    """Tie the channels of all operands that are not broadcast along them."""
    tensors, out = call.tensors, call.out
    zero, finite = _at_zero(tracer, call)
    if why := _refusal(tracer, call, finite):
        tracer.block(tensors, tracer.reason(why))
        return
    operands = [tracer.labels(tensor) for tensor in tensors]
    why = tracer.reason("meets a tensor that is not pruned along with it")
    labels = joint(operands, tracer.ledger.tie(operands, out.dim(), why))
    dims = frozenset(d for grid in labels.grids for d in varying(grid))
    placed = any((o.weight or o.buffer) and _beside(o, dims, out.dim()) for o in operands)
    scalars = all(o.grids or t.numel() == 1 for o, t in zip(operands, tensors, strict=True))
    pure = scalars and labels.pure and not placed
    weight = zero and scalars and labels.weight
    tracer.put(out, replace(labels, zero=zero, pure=pure, weight=weight))


def _refusal(tracer: Tracer, call: Call, finite: bool) -> str | None:
    """Return why channels that reach the operator stay, or None."""
    if not isinstance(call.out, Tensor):
        return f"reaches aten.{call.name}, which has several outputs"
    if not finite:
        return f"reaches aten.{call.name}, which is not finite at zero"
    if call.func._schema.is_mutable and not tracer.labels(call.tensors[0]).grids:
        return "is written into a tensor that is not pruned"  # views of it would not follow
    return None


def assigned(tracer: Tracer, call: Call) -> None:
    """Rule of copy_(self, src), which a[...] = b is: what is written takes the place's channels."""
    place, source = call.args[0], call.get("src")
    under, over = tracer.labels(place), tracer.labels(source)
    if not under.grids:  # views of it would not follow
        tracer.block(source, tracer.reason("is written into a tensor that is not pruned"))
    elif under.zero and not over.zero:
        why = tracer.reason("is written over channels, and need not be zero")
        tracer.block([place, source], why)
    else:
        why = tracer.reason("meets a tensor that is not pruned along with it")
        tracer.ledger.tie([under, over], place.dim(), why)


def _beside(operand: Labels, dims: frozenset[int], ndim: int) -> bool:
    """Return whether an operand also varies in dimensions other than the outcome's channels."""
    ahead = ndim - len(operand.shape)
    return any(size > 1 and ahead + d not in dims for d, size in enumerate(operand.shape))


def _at_zero(tracer: Tracer, call: Call) -> tuple[bool, bool]:
    """Run the operator with zeros for channels and any values for all else.

    Returns:
        Whether the result is zero, and whether it is finite.
    """

    def stand_in(value: object) -> object:
        if isinstance(value, (list, tuple)):
            return [stand_in(item) for item in value]
        if not isinstance(value, Tensor):
            return value
        if tracer.labels(value).zero:
            return torch.zeros(len(PROBES), dtype=value.dtype)
        probes = torch.tensor(PROBES)
        return probes.ge(1) if value.dtype == torch.bool else probes.to(value.dtype)

    kwargs = {name: stand_in(value) for name, value in call.kwargs.items() if name != "device"}
    try:
        result = call.func(*[stand_in(value) for value in call.args], **kwargs)
    except (RuntimeError, TypeError):
        return False, True
    if not isinstance(result, Tensor) or not result.is_floating_point():
        return False, True
    zeros = any(tracer.labels(tensor).zero for tensor in call.tensors)
    return bool((result == 0).all()), not (zeros and bool(result.isinf().any()))
