"""Gradual pruning without training: cut a little, solve the kept weights again, cut on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from secateur.arguments import POSITIVE, SEED, TEXTS, Wanted, a, checked, whole
from secateur.errors import UsageError
from secateur.model.copying import copied
from secateur.model.parameters import parameters, unwrapped
from secateur.pruning.calibration import Calibration
from secateur.pruning.criteria import find
from secateur.pruning.parameters import axes_of
from secateur.pruning.recovery.reconstruct import Reconstruction, reconstruct
from secateur.pruning.selecting.budget import Budget
from secateur.pruning.selecting.masks import Masks
from secateur.pruning.selecting.selection import select

STEP = 0.8
"""What one cut of many leaves of the weights before it."""
FEW = 512
"""Inputs that such a cut is repaired from; the last one sees all."""


@checked(
    names=TEXTS,
    budgets=Wanted(
        lambda v: isinstance(v, (tuple, list)) and all(isinstance(b, Budget) for b in v),
        "a list of Budgets, such as [Budget(0.5), Budget(0.1)]",
    ),
    step=Wanted(lambda v: 0 < v < 1, "in (0, 1)"),
    images=whole(1, "at least 1, a whole number"),
    model=a(nn.Module, "a torch module"),
    calibration=a(Calibration, "a Calibration, of a few hundred inputs or more"),
    damping=POSITIVE,
    positions=whole(1, "at least 1, a whole number"),
    seed=SEED,
)
def prune_gradually(
    model: nn.Module,
    names: Sequence[str],
    budgets: Sequence[Budget],
    calibration: Calibration,
    *,
    criterion: str = "magnitude",
    step: float = STEP,
    images: int = FEW,
    damping: float = 1e-2,
    positions: int = 64,
    seed: int = 0,
) -> Iterator[tuple[nn.Module, Masks, Reconstruction]]:
    """Prune a trained network without training it: cut a little, reconstruct, cut on.

    The keep ratio falls through step, step², ... After each cut the kept weights are
    reconstructed, and the next cut ranks what they have become: a weight that took over the work
    of others is kept. Every budget is met exactly on the way, from a copy, and the masks are
    nested.

    Args:
        model: trained and dense, on the calibration set's device; not changed.
        names: the parameters that may be cut, as `prunable(model).names`.
        budgets: what to keep; in any order of keep ratios, all else the same in all.
        calibration: all of it for the networks that are yielded, the first `images` on the way.
        criterion: that ranks the weights, before every cut.
        step: what a cut leaves of the weights before it, in (0, 1).
        images: some hundreds; fewer than 32 warn.
        damping: as in `reconstruct`.
        positions: as in `reconstruct`.
        seed: as in `reconstruct`.

    Returns:
        An iterator that does the work: for each budget, from most to least kept, the pruned
        network, its masks, and how the last reconstruction went.

    Raises:
        UsageError, BudgetError: as `reconstruct` and `select` do; or the budgets differ in more
            than the keep ratio.
    """
    ordered = sorted(budgets, key=lambda budget: -budget.keep)
    if len({replace(budget, keep=1.0) for budget in ordered if budget.pattern.ratio is None}) != 1:
        raise UsageError(
            "gradual pruning takes budgets that differ in nothing but the keep ratio, at least "
            "one; n:m has one ratio only, so cut to it at once and use reconstruct"
        )
    dense = unwrapped(model)
    calibration.check(dense)
    few, rank = calibration.first(images), find(criterion).scores
    # whatever a later budget would be refused for is refused before the first one is worked on
    axes = axes_of(dense, names)
    select(rank(dense, names, seed=seed, calibration=few), ordered[-1], axes=axes)
    repair = partial(reconstruct, damping=damping, positions=positions, seed=seed)
    rank_few = partial(rank, names=names, seed=seed, calibration=few)
    return _walk(dense, names, axes, ordered, calibration, few, step, rank_few, repair)


def _walk(
    dense: nn.Module,
    names: Sequence[str],
    axes: Mapping[str, int | None],
    ordered: list[Budget],
    calibration: Calibration,
    few: Calibration,
    step: float,
    rank: Callable[[nn.Module], dict[str, Tensor]],
    repair: Callable[[nn.Module, nn.Module, Masks, Calibration], Reconstruction],
) -> Iterator[tuple[nn.Module, Masks, Reconstruction]]:
    on_the_way = copied(dense)
    weights = parameters(dense, names)
    kept = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}
    keep = 1.0
    while True:
        scores = rank(on_the_way)
        following = keep * step
        while ordered and (ordered[0].keep > following or ordered[0].keep >= 1):
            budget = ordered.pop(0)
            masks = select(scores, budget, axes=axes, among=kept)
            pruned = copied(on_the_way)
            yield pruned, masks, repair(pruned, dense, masks, calibration)
        if not ordered:
            return
        keep = following
        masks = select(scores, replace(ordered[0], keep=keep), axes=axes, among=kept)
        repair(on_the_way, dense, masks, few)
        kept = dict(masks)
