"""Zeros that stay: masks put back after every step of someone else's optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from torch.optim import Optimizer

from secateur.arguments import a, checked
from secateur.errors import UsageError
from secateur.model.parameters import parameters
from secateur.pruning.gates.optimizers import plain_optimizer
from secateur.pruning.selecting.masks import Masks
from secateur.pruning.unprunable import refuse_sharded
from secateur.training import Pruning


class MaskHold:
    """Masks that an optimizer's hook holds, for loops that cannot call `masks.hold` themselves."""

    @checked(model=a(nn.Module, "a torch module"), masks=a(Masks, "Masks, as result.masks"))
    def __init__(self, model: nn.Module, optimizer: Any, masks: Masks) -> None:
        """Apply the masks, and put them back after every step until `remove`.

        Args:
            model: changed in place; wrappers (DDP, compiled) are looked through.
            optimizer: of its parameters; Accelerate's and Lightning's wrappers are looked through.
            masks: of the model, on its device.

        Raises:
            UsageError: the model is sharded, or the masks are of another one. Nothing was changed.
        """
        refuse_sharded(model)
        inner = plain_optimizer(optimizer)
        masks.apply(model)
        self._hook = inner.register_step_post_hook(lambda *_: masks.hold(model))

    def remove(self) -> None:
        """Hold no longer; the zeros are left where they are."""
        self._hook.remove()


@contextmanager
def holding(model: nn.Module, masks: Masks) -> Iterator[Pruning]:
    """Hold masks in whatever loop opens what this yields around its steps.

    Args:
        model: changed in place: the masks are applied at once.
        masks: of the model.

    Raises:
        UsageError: the masks are of another model; nothing was changed then. Or, when the block
            ends, a weight that is cut is not zero, because the loop moved it by other means than
            the steps of the optimizer that it gave.
    """
    masks.apply(model)
    holds: WeakKeyDictionary[Optimizer, MaskHold] = WeakKeyDictionary()

    def pruning(optimizer: Optimizer) -> AbstractContextManager[object]:
        if optimizer not in holds:
            holds[optimizer] = MaskHold(model, optimizer, masks)
        return nullcontext()

    try:
        yield pruning
    finally:
        for hold in holds.values():
            hold.remove()
    for name, weight in parameters(model, tuple(masks)).items():
        moved = int(weight.detach()[~masks[name].to(weight.device)].count_nonzero())
        if moved:
            raise UsageError(
                f"{moved:,} weights of {name!r} that are cut are not zero after training: give "
                "`pruning` the optimizer whose step() moves the weights, at every step"
            )
