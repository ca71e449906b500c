"""Operators that treat every element by itself, and meet others by broadcasting."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.pruning.channels.labels import Labels, Operand, varied
from secateur.pruning.channels.tracing import Call, Tracer

NAMES = ("hardswish", "leaky_relu", "_prelu_kernel", "rsub", "floor_divide")
"""Pointwise operators that some versions of torch do not mark as such."""

PROBES = (-1.7, 0.9, 2.3)
"""What stands in for values that may be anything."""


def pointwise(tracer: Tracer, call: Call) -> None:
    """Tie the channels of all operands that are not broadcast along them."""
    tensors, out = call.tensors, call.out
    if not isinstance(out, Tensor):
        tracer.block(tensors, tracer.at(f"reaches aten.{call.name}, which has several outputs"))
        return
    zero, finite = _at_zero(tracer, call)
    if not finite:
        tracer.block(tensors, tracer.at(f"reaches aten.{call.name}, which is not finite at zero"))
        return
    alone = call.func._schema.is_mutable and tracer.labels(tensors[0]) is None
    if alone:  # what else looks at the same memory would not know
        tracer.block(tensors, tracer.at("is written into a tensor that is not pruned"))
        return
    why = tracer.at("meets a tensor that is not pruned along with it")
    operands: list[Operand] = [tracer.operand(tensor) for tensor in tensors]
    met = tracer.ledger.meet(operands, out.dim(), why)
    known = [operand.labels for operand in operands if operand.labels]
    dims = frozenset(d for m in met for d in varied(m.grid))
    placed = any(o.known.weight or o.known.buffer for o in operands if _beside(o, dims, out.dim()))
    scalars = all(o.labels or t.numel() == 1 for o, t in zip(operands, tensors, strict=True))
    tracer.put(
        out,
        Labels(
            tuple(m.grid for m in met),
            zero=zero,
            pure=scalars and all(labels.pure for labels in known) and not placed,
            weight=zero and scalars and all(labels.weight for labels in known),
            buffer=all(labels.buffer for labels in known),
        ),
    )


def _beside(operand: Operand, dims: frozenset[int], ndim: int) -> bool:
    """Return whether an operand has another size than 1 beside the outcome's channels."""
    ahead = ndim - len(operand.shape)
    return any(size > 1 and ahead + d not in dims for d, size in enumerate(operand.shape))


def _at_zero(tracer: Tracer, call: Call) -> tuple[bool, bool]:
    """Ask the operator what it gives where channels are zero, whatever else it meets.

    Returns:
        Whether it is zero, and whether it is finite.
    """

    def stand_in(value: object) -> object:
        if isinstance(value, (list, tuple)):
            return [stand_in(item) for item in value]
        if not isinstance(value, Tensor):
            return value
        labels = tracer.labels(value)
        if labels and labels.zero:
            return torch.zeros(len(PROBES), dtype=value.dtype)
        return (
            torch.tensor(PROBES).ge(1)
            if value.dtype == torch.bool
            else (torch.tensor(PROBES).to(value.dtype))
        )

    kwargs = {name: stand_in(value) for name, value in call.kwargs.items() if name != "device"}
    try:
        result = call.func(*[stand_in(value) for value in call.args], **kwargs)
    except (RuntimeError, TypeError):
        return False, True
    if not result.is_floating_point():
        return False, True
    zeros = any(labels.zero for t in call.tensors if (labels := tracer.labels(t)))
    finite = not zeros or not bool(result.isinf().any())
    return bool((result == 0).all()), finite
