"""Whole channels are cut by scores and a budget; masks say which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.arguments import SEED, a, checked
from secateur.errors import BudgetError, ScoreError, UsageError
from secateur.pruning.channels.groups import STAYS, Bools, Groups, Ints
from secateur.pruning.selecting.budget import Budget
from secateur.pruning.selecting.division import divided
from secateur.pruning.selecting.masks import Masks

Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, eq=False, repr=False)
class ChannelCut:
    """Which units are cut, and the masks over all that belongs to them."""

    groups: Groups
    cut: frozenset[int]
    """The numbers of the units that are cut."""
    requested: int
    """K, how many units the budget keeps; with a `multiple` not always what is kept."""
    masks: Masks
    """The masks of the tensors that were scored."""
    others: Mapping[str, Tensor] = field(default_factory=dict)
    """Masks of the other parameters that belong to channels: biases, scales and shifts of norms,
    and weights that were not scored. What is cut is zero there too, so that a channel that is
    cut is zero, and nothing reads it."""

    @property
    def total(self) -> int:
        """How many units there are."""
        return self.groups.units

    @property
    def kept(self) -> int:
        """How many units are kept."""
        return self.total - len(self.cut)

    @property
    def keep(self) -> float:
        """The keep ratio reached, in units."""
        return self.kept / self.total

    @property
    def layers(self) -> Mapping[str, tuple[int, int]]:
        """How many units each group keeps, and has: name → (kept, total)."""
        return {
            group.name: (sum(unit not in self.cut for unit in group.units), len(group))
            for group in self.groups
        }

    @cached_property
    def everything(self) -> Masks:
        """The masks of all parameters that belong to channels."""
        return Masks({**self.masks, **self.others})

    def apply(self, model: nn.Module) -> None:
        """Set everything of the units that are cut to zero, in place.

        Raises:
            UsageError: a parameter is missing or has another shape; nothing was changed.
        """
        self.everything.apply(model)

    def hold(self, model: nn.Module) -> None:
        """Put the zeros back: call it after every optimizer step. Errors are those of `apply`."""
        self.everything.hold(model)

    def to(self, device: torch.device | str) -> ChannelCut:
        """Return the cut with its masks on a device."""
        others = {name: mask.to(device) for name, mask in self.others.items()}
        return ChannelCut(self.groups, self.cut, self.requested, self.masks.to(device), others)

    def nested_in(self, other: ChannelCut) -> bool:
        """Return whether the other cut keeps every unit that this one keeps.

        Raises:
            UsageError: the cuts are of different groups.
        """
        if self.groups != other.groups:
            raise UsageError("cuts of different models cannot be compared: their groups differ")
        return other.cut <= self.cut

    def __repr__(self) -> str:
        lines = [f"ChannelCut({self.kept:,} of {self.total:,} units kept)"]
        lines += [f"  {kept:>5} of {n:>5}  {name}" for name, (kept, n) in self.layers.items()]
        return "\n".join(lines)


@checked(
    groups=a(Groups, "what channel_groups returned"),
    budget=a(Budget, "a secateur.Budget"),
    minimum=SEED,  # any whole number here: BudgetError says the range
    multiple=SEED,
)
def select_channels(
    scores: Mapping[str, Tensor],
    groups: Groups,
    budget: Budget,
    *,
    minimum: int = 1,
    multiple: int = 1,
) -> ChannelCut:
    """Keep K = `budget.count(N)` of the N units: those with the highest scores.

    A unit's score is the mean of its weights' scores: those of every row that writes it and every
    column that reads it, in all scored tensors, each weight once. Equal scores are ordered by the
    units' numbers, lowest first.

    Some units are kept at any keep ratio. Every weight that writes channels keeps its best ones,
    so that together with the channels that stay it has `minimum`, or all; every group keeps what
    the budget's floor asks for; and every tensor inside the network, such as a slice that one
    layer reads, keeps one. With scope "layer" every group keeps its share of K, and with a tuple
    of globs every scope does. Globs, also those of overrides, match the names of the weights that
    write a group.

    With `multiple=1` cuts are nested: for the same scores, a smaller keep ratio keeps no unit
    that a larger one cuts.

    Args:
        scores: name → floating tensor shaped as the parameter, higher is more important.
        groups: of the same model.
        budget: how many units to keep, and where; its pattern is ignored.
        minimum: how many units every weight keeps at least; 1 or more.
        multiple: every group keeps the nearest multiple of this many units, at least one multiple
            and at most all of its units. K is then only approached: `kept` says what is reached.

    Raises:
        BudgetError: K is out of what floors and overrides leave possible, or a glob matches no
            weight; or `minimum` or `multiple` is less than 1.
        ScoreError: scores are NaN or infinite, or not shaped as the parameter.
        UsageError: there are no units, or none of a unit's weights is scored.
    """
    if not groups.units:
        stay = "; ".join(f"{name}: {reason}" for name, reason in groups.blocked.items())
        raise UsageError(f"the model has no channels that can be cut ({stay})")
    for what, number in (("minimum", minimum), ("multiple", multiple)):
        if number < 1:
            raise BudgetError(f"{what} is {number}, but must be 1 or more")
    means = unit_scores(scores, groups)
    certain = _certain(groups, means, budget, minimum)
    kept = _kept(groups, means, certain, budget)
    if multiple > 1:
        for group in groups:
            units = np.asarray(group.units)
            count = _rounded(
                int(kept[units].sum()), int(certain[units].sum()), multiple, len(units)
            )
            kept[units] = False
            kept[_ranked(units, means, certain)[:count]] = True
    masks = _masks(scores, groups, kept)
    scored = {name: mask for name, mask in masks.items() if name in scores}
    whole = {n: torch.ones_like(s, dtype=torch.bool) for n, s in scores.items() if n not in masks}
    return ChannelCut(
        groups,
        frozenset(np.flatnonzero(~kept).tolist()),
        budget.count(groups.units),
        Masks({**scored, **whole}),
        {name: mask for name, mask in masks.items() if name not in scores},
    )


def unit_scores(scores: Mapping[str, Tensor], groups: Groups) -> Floats:
    """Return the mean score of every unit's scored weights, float64 [units].

    It is rounded to float32, so that the order of additions on a machine does not matter.

    Raises:
        ScoreError: scores are NaN or infinite, or not shaped as the parameter; names the tensor.
        UsageError: none of a unit's weights is scored; names its group.
    """
    sums, counts = np.zeros(groups.units), np.zeros(groups.units)
    for name, axes in groups.by_tensor.items():
        if name not in scores:
            continue
        tensor = scores[name]
        if any(a.dim >= tensor.dim() or tensor.shape[a.dim] != len(a.units) for a in axes):
            raise ScoreError(
                f"the scores of {name!r} have shape {tuple(tensor.shape)}, but its channels are "
                f"{', '.join(f'{len(a.units)} along {a.dim}' for a in axes)}"
            )
        for at, axis in enumerate(axes):
            line = _line(tensor, (axis.dim,))
            if not np.isfinite(line).all():
                raise ScoreError(f"scores of {name!r} are NaN or infinite; scores must be finite")
            units = np.asarray(axis.units)
            free = units != STAYS
            np.add.at(sums, units[free], line[free])
            np.add.at(counts, units[free], tensor.numel() / len(units))
            for other in axes[:at]:  # a weight of a unit along both dimensions counts once
                both = np.asarray(other.units)
                same = (both[:, None] == units[None, :]) & free[None, :]
                if same.any():
                    plane = _line(tensor, (other.dim, axis.dim))
                    rows, columns = np.nonzero(same)
                    np.subtract.at(sums, units[columns], plane[rows, columns])
                    each = tensor.numel() / plane.size
                    np.subtract.at(counts, units[columns], each)
    for group in groups:
        if not counts[list(group.units)].all():
            raise UsageError(
                f"the channels of {group.name!r} belong to no weight that is scored; give its "
                f"scores, or leave it out with exclude=[{group.name!r}] of prunable or "
                "channel_groups"
            )
    return (sums / counts).astype(np.float32).astype(np.float64)


def _line(tensor: Tensor, dims: tuple[int, ...]) -> Floats:
    """Return a tensor's sum over all other dimensions, float64."""
    rest = [d for d in range(tensor.dim()) if d not in dims]
    total = tensor.detach().double()
    found: Floats = (total.sum(rest) if rest else total).cpu().numpy()
    return found


def _ranked(units: Ints, means: Floats, first: Bools) -> Ints:
    """Return units in the order in which they are kept: marked ones first, then by their means."""
    return units[np.lexsort((units, -means[units], ~first[units]))]


def _certain(groups: Groups, means: Floats, budget: Budget, minimum: int) -> Bools:
    """Return which units are kept in any case: the same at every keep ratio."""
    certain = np.zeros(groups.units, bool)
    best = [(np.asarray(group.units), budget.least(len(group))) for group in groups]
    best += [(np.asarray(floor), 1) for floor in groups.floors]
    for axis in groups.axes:
        units = np.unique(axis.units)
        if axis.role == "writes":
            best.append((units[units != STAYS], minimum - axis.units.count(STAYS)))
    for units, count in sorted(best, key=lambda of: len(of[0])):  # slices first, then the whole
        # units kept for a slice count for the whole
        certain[_ranked(units, means, certain)[: max(count, 0)]] = True
    return certain


def _kept(groups: Groups, means: Floats, certain: Bools, budget: Budget) -> Bools:
    """Return which units are kept: the certain ones, and the best of all others."""
    members = [np.asarray(group.units) for group in groups]
    names, sizes = [group.tensors for group in groups], [len(group) for group in groups]
    least = [int(certain[units].sum()) for units in members]
    kept = np.zeros(groups.units, bool)
    for pool in divided(budget, names, sizes, certain=least, unit="channels"):
        for at, count in zip(pool.members, pool.guaranteed, strict=True):
            kept[_ranked(members[at], means, certain)[:count]] = True
        rest = np.concatenate([members[at][~kept[members[at]]] for at in pool.members])
        kept[_ranked(rest, means, certain)[: pool.remaining]] = True
    return kept


def _rounded(count: int, least: int, multiple: int, size: int) -> int:
    nearest = max(1, (2 * count + multiple) // (2 * multiple)) * multiple
    return min(size, max(nearest, -(-least // multiple) * multiple))


def _masks(scores: Mapping[str, Tensor], groups: Groups, kept: Bools) -> dict[str, Tensor]:
    """Return name → mask of every parameter in which something is cut or could be."""
    masks = {}
    for name, axes in groups.by_tensor.items():
        if name not in groups.shapes:
            continue  # a buffer: it does no harm where channels are zero, but a variance of 0 would
        shape = groups.shapes[name]
        mask = torch.ones(shape, dtype=torch.bool)
        for axis in axes:
            lines = np.append(kept, True)[list(axis.units)]  # STAYS is the last place
            view = [-1 if d == axis.dim else 1 for d in range(len(shape))]
            mask &= torch.from_numpy(lines).view(view)
        masks[name] = mask.to(scores[name].device if name in scores else "cpu")
    return masks
