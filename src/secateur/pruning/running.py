"""Which parameters a model uses on its data: heads that only training runs are not among them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from secateur.model.inputs import Inputs, run, tensors_in
from secateur.model.parameters import parameters, unwrapped
from secateur.model.passes import undisturbed


def unused(model: nn.Module, names: Sequence[str], batches: Iterable[Inputs]) -> tuple[str, ...]:
    """Return which of some parameters no pass over the batches computes anything from.

    Passes are in evaluation mode and without gradients, and stop at the first batch after which
    every parameter was used. Modes, buffers and the state of torch's random generators are put
    back.

    Args:
        model: not changed; takes the batches.
        names: of parameters.
        batches: inputs as the model takes them.
    """
    model = unwrapped(model)
    left = {id(tensor): name for name, tensor in parameters(model, names).items()}
    watch = _Watch(left)
    with undisturbed(model), torch.no_grad(), watch:
        for batch in batches:
            if not left:
                break
            run(model, batch)
    return tuple(left.values())


class _Watch(TorchFunctionMode):
    """Takes a parameter out of those that are left once a function gives tensors for it."""

    def __init__(self, left: dict[int, str]) -> None:
        super().__init__()
        self._left = left

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        given = func(*args, **(kwargs or {}))
        # a dtype, a device or a shape that is asked for is no use of a parameter
        if self._left and any(True for _ in tensors_in((given,))):
            for tensor in tensors_in((args, kwargs or {})):
                self._left.pop(id(tensor), None)
        return given
