"""What gates and masks must know of an optimizer, whoever made it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, optim
from torch.optim import Optimizer

from secateur.errors import UsageError

_DEEPSPEED = ("deepspeed.runtime.", "accelerate.utils.deepspeed.")
"""Where optimizers are that shard; the fused Adam of deepspeed.ops is one like those of torch."""
_THAWED = "leave it out, as prunable(model) does, or let it take gradients"
_MERGED = (
    "it is what PEFT's adapters stand beside: merge them first (merge_and_unload()), prune without "
    "gates (secateur.prune), or call requires_grad_(True) on it and give it to the optimizer"
)


def plain_optimizer(optimizer: Any) -> Optimizer:
    """Return the torch optimizer inside wrappers that keep it in `.optimizer`.

    Raises:
        UsageError: there is no optimizer inside; or it is one of which each process steps only a
            part of the weights, or of their gradients: names it.
    """
    _refuse_sharding(optimizer)
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    if not isinstance(optimizer, Optimizer):
        raise UsageError(
            f"the optimizer is of type {type(optimizer).__name__}; give a torch optimizer"
        )
    return optimizer


def _refuse_sharding(optimizer: Any) -> None:
    """Refuse DeepSpeed's optimizers, which are wrapped as others are, and torch's where it steps
    within backward."""
    seen: list[Any] = []
    while optimizer is not None and not any(optimizer is each for each in seen):
        seen.append(optimizer)
        kinds = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(optimizer).__mro__]
        if any(kind.startswith(_DEEPSPEED) for kind in kinds):
            raise UsageError(
                f"the optimizer is DeepSpeed's {type(optimizer).__name__}, which splits weights or "
                "gradients over the processes, but gates and masks take all of them in each; train "
                "with DDP and an optimizer of torch, or prune the gathered model afterwards: "
                "get_fp32_state_dict_from_zero_checkpoint of deepspeed.utils.zero_to_fp32 gives it"
            )
        if isinstance(optimizer, _zero()) and getattr(optimizer, "_overlap_with_ddp", False):
            raise UsageError(
                "ZeroRedundancyOptimizer(overlap_with_ddp=True) steps within backward, where "
                "weights are cut; leave overlap_with_ddp out"
            )
        optimizer = getattr(optimizer, "optimizer", None)


def _zero() -> tuple[type, ...]:
    """Return torch's optimizer that splits its state, where torch has it: it is not imported."""
    module = sys.modules.get("torch.distributed.optim.zero_redundancy_optimizer")
    return () if module is None else (module.ZeroRedundancyOptimizer,)


def _kind(optimizer: Optimizer) -> type:
    """Return how an optimizer steps, which one that splits its state leaves to another kind."""
    return type(getattr(optimizer, "optim", None) if isinstance(optimizer, _zero()) else optimizer)


def group_of(optimizer: Optimizer) -> dict[int, Mapping[str, Any]]:
    """Return id of a parameter → the optimizer's group that it is in, as it is now."""
    return {id(p): group for group in optimizer.param_groups for p in group["params"]}


def refuse_optimizer(
    optimizer: Optimizer,
    weights: Mapping[str, Tensor],
    *,
    moves: bool,
    undoes: bool,
    adapted: bool = False,
) -> None:
    """Refuse optimizers beside which gates would not learn what they should.

    Args:
        optimizer: of the model that has the weights.
        weights: name → parameter: those that get gates.
        moves: the optimizer is to move these weights.
        undoes: it is not to decay those that a step cuts.
        adapted: the model has adapters of PEFT, beside which its base is frozen.

    Raises:
        UsageError: LBFGS, one that maximises, one that does not hold a weight, or one whose
            decay cannot be undone.
    """
    kind = _kind(optimizer).__name__
    if issubclass(_kind(optimizer), optim.LBFGS):
        raise UsageError("LBFGS runs the network several times a step; choose another optimizer")
    groups = group_of(optimizer)
    for name, weight in weights.items():
        if not weight.requires_grad:
            raise UsageError(
                f"{name!r} is frozen (requires_grad is False), so its gate would not learn; "
                f"{_MERGED if adapted else _THAWED}"
            )
        group = groups.get(id(weight))
        if group is None and moves:
            raise UsageError(
                f"the optimizer does not hold {name!r}, so it would not be trained; give all "
                "parameters that may be cut to one optimizer, or leave this one out with "
                "prunable(model, exclude=[...])"
            )
        if group is None:
            continue
        if group.get("maximize"):
            raise UsageError(f"the {kind} maximises, but gates descend; train on the negative loss")
        if moves and undoes and group.get("weight_decay") and not _undoes(optimizer, group):
            raise UsageError(
                f"{kind} decays weights in a way that a step cannot undo for those that it cuts; "
                "choose SGD or AdamW, or GatePhase(decay='all'), or no weight decay"
            )


def can_undo_decay(optimizer: Any, weights: Mapping[str, Tensor]) -> bool:
    """Return whether `undo_decay` works for these weights beside an optimizer."""
    optimizer = plain_optimizer(optimizer)
    groups = group_of(optimizer)
    own = [groups[id(weight)] for weight in weights.values() if id(weight) in groups]
    return all(not g.get("weight_decay") or _undoes(optimizer, g) for g in own)


def undo_decay(
    weight: Tensor, mask: Tensor, optimizer: Optimizer, group: Mapping[str, Any], scale: float
) -> None:
    """Undo beforehand, in place, the decay that the next step is going to give cut weights.

    Args:
        weight: whole, with its gradient in `.grad`.
        mask: True is kept.
        optimizer: known to `refuse_optimizer`.
        group: that the weight is in.
        scale: by which its gradient is multiplied, and which the step will divide by.
    """
    decay = group.get("weight_decay", 0)
    if not decay or weight.grad is None:
        return
    if _decoupled(optimizer, group):  # multiplies by 1 - rate * decay, whatever the gradient is
        weight.div_(torch.where(mask, 1.0, 1 - float(group["lr"]) * decay))
    else:
        weight.grad.add_(weight * mask - weight, alpha=decay * scale)


def _decoupled(optimizer: Optimizer, group: Mapping[str, Any]) -> bool:
    return issubclass(_kind(optimizer), optim.AdamW) or bool(group.get("decoupled_weight_decay"))


def _undoes(optimizer: Optimizer, group: Mapping[str, Any]) -> bool:
    # Where decay is added to a gradient that is normalised then (Adam), the rounding error of
    # taking it away beforehand would be normalised too.
    return _decoupled(optimizer, group) or issubclass(_kind(optimizer), optim.SGD)


def found_infinite(optimizer: Optimizer) -> bool:
    """Return whether a gradient scaler has told a fused optimizer to leave this step out."""
    found: Tensor | None = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


def normalises(optimizer: Optimizer) -> bool:
    """Return whether an optimizer's steps are as long for small gradients as for large ones.

    All optimizers are taken to do so but SGD and its averaged form, and Adadelta, whose rate
    of about 1 is not that of a normalised step.
    """
    return not issubclass(_kind(optimizer), (optim.SGD, optim.ASGD, optim.Adadelta))


def scale_left(optimizer: Optimizer) -> float:
    """Return what gradients are still multiplied by: a fused optimizer unscales them itself."""
    scale: Tensor | None = getattr(optimizer, "grad_scale", None)
    return 1.0 if scale is None else float(scale)


def first_mismatch(named: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> str | None:
    """Return the first name whose tensor is missing, unknown or shaped otherwise, or None."""
    names: Sequence[str] = [*like, *(name for name in named if name not in like)]
    for name in names:
        if name not in like or name not in named or named[name].shape != like[name].shape:
            return name
    return None
