"""Fine-tuning under held masks: the kept weights train on, the cut ones stay at zero."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from secateur.pruning.masks import Masks
from secateur.training import Data, Epoch, Recipe, train


def finetune(
    model: nn.Module,
    masks: Masks,
    data: Data,
    recipe: Recipe,
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    seed: int,
) -> tuple[Epoch, ...]:
    """Train a pruned model in place; exactly the weights in `masks` are non-zero afterwards.

    Args and errors are those of `secateur.training.train`.
    """
    masks.apply(model)
    return train(model, data, recipe, loss, seed=seed, after_step=lambda: masks.hold(model))
