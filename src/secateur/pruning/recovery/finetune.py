"""Fine-tuning under held masks: the kept weights train on, the cut ones stay at zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from secateur.arguments import FUNCTION, SEED, a, checked
from secateur.pruning.gates.mask_hold import holding
from secateur.pruning.selecting.masks import Masks
from secateur.training import DATA, Data, Epoch, Recipe, train

SHORT = Recipe(epochs=1, rate=0.05, warmup=0.1)
"""One epoch, back at a rate that trains and down to none: learning-rate rewinding (Renda et al.
2020, arXiv:2003.02389) in short. For a longer one `replace(SHORT, epochs=...)`."""


@checked(
    model=a(nn.Module, "a torch module"),
    masks=a(Masks, "Masks, as result.masks"),
    data=DATA,
    loss=FUNCTION,
    recipe=a(Recipe, "a Recipe, such as Recipe(epochs=1)"),
    seed=SEED,
    watch=FUNCTION,
)
def finetune(
    model: nn.Module,
    masks: Masks,
    data: Data,
    loss: Callable[[Tensor, Any], Tensor],
    *,
    recipe: Recipe = SHORT,
    seed: int,
    watch: Callable[[Epoch], object] = lambda epoch: None,
) -> tuple[Epoch, ...]:
    """Train a pruned model in place; exactly the weights in `masks` are non-zero afterwards.

    Recalibrate its batch norms afterwards. With data and loss of `distilled` it learns from the
    dense network's outputs too.

    Args:
        model: pruned, or dense: the masks are applied first.
        masks: of the model.
        data: as for `secateur.train`, and the errors are those of `secateur.train`.
        loss: (outputs as float32, targets) → scalar.
        recipe: epochs, optimizer, rates and precision; of a transformer take `Recipe.adamw`.
        seed: of shuffling and augmentation.
        watch: told of each finished epoch.

    Raises:
        UsageError: the masks are not of this model.
    """
    with holding(model, masks) as pruning:
        return train(model, data, recipe, loss, seed=seed, pruning=pruning, watch=watch)
