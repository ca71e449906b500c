"""Cut channels are taken out: a smaller dense module with the same outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from secateur.arguments import TENSORS, a, checked
from secateur.model.copying import copied
from secateur.model.inputs import Inputs
from secateur.model.parameters import unwrapped
from secateur.pruning.channels import numbers
from secateur.pruning.channels.constants import Fold, dead_units, fold
from secateur.pruning.channels.cut import ChannelCut
from secateur.pruning.channels.groups import Group, Groups
from secateur.pruning.channels.numbers import WAYS, Changes, Way
from secateur.pruning.channels.slicing import cut_out
from secateur.pruning.smaller.alike import difference, outputs


@dataclass(frozen=True, eq=False, repr=False)
class Shrunk:
    """What `shrink` returns."""

    model: nn.Module
    """A plain, smaller module with the original's names."""
    removed: dict[str, int]
    """How many units were taken out of each group: name → count."""
    refused: dict[str, str]
    """Groups that were left as they were, with their zeros: name → reason."""
    folded: tuple[str, ...]
    """Layers to whose bias constants were added; those without a bias were given one."""
    before: int
    """Parameters of the given model."""
    after: int
    """Parameters of the smaller one."""

    def __repr__(self) -> str:
        lines = [f"Shrunk({self.before:,} → {self.after:,} parameters)"]
        lines += [f"  {count:>5} out of {name}" for name, count in self.removed.items()]
        lines += [f"  refused {name}: {reason}" for name, reason in self.refused.items()]
        return "\n".join(lines)


@checked(
    model=a(nn.Module, "a torch module"),
    cut=a((ChannelCut, type(None)), "what select_channels gives, or None"),
    example=TENSORS,
)
def shrink(model: nn.Module, cut: ChannelCut | None, example: Inputs) -> Shrunk:
    """Take channels out of a model.

    With a cut, its channels are zeroed in a copy and then taken out. Without one, channels that do
    nothing are found and taken out: those that no layer reads, and those that are constant because
    all weights that write them are zero. A constant that is not zero is added to the bias of the
    layer that reads it if that is exact, in a linear layer or a convolution without padding; a
    layer without a bias is given one. Elsewhere the channel is left. This is repeated until
    nothing more is found.

    Every smaller model is run on the example and compared with the one with zeros, both in float32
    and in evaluation mode. Sizes that modules hold as numbers of their own, alone or in tuples,
    lists, dicts and settings, are set so that the outputs are the same. A group of channels with
    which the model still fails (its sizes are written into code), or whose outputs differ by more
    than 1e-4 of the largest, is refused and left.

    Args:
        model: not changed. Wrappers are looked through; the result has none.
        cut: of this model, or None.
        example: inputs, as for `channel_groups`.

    Returns:
        The smaller model, in the same modes, and a report.

    Raises:
        UsageError: the model does not take the example, or the cut belongs to another model.
    """
    model = unwrapped(model)
    small = copied(model)
    if cut is not None:
        cut.apply(small)
    removed: dict[str, int] = {}
    refused: dict[str, str] = {}
    folded: set[str] = set()
    while True:
        groups, units, folds = (
            dead_units(small, example) if cut is None else (cut.groups, cut.cut, ())
        )
        left = frozenset(u for g in groups if g.name not in refused for u in g.units) & units
        if not left and cut is None:
            break
        probe = small if cut is None else _revealing(small, cut)
        small, taken, failed, changed = _without((small, probe), groups, left, folds, example)
        refused |= failed
        folded |= changed
        for name, count in taken.items():
            removed[name] = removed.get(name, 0) + count
        if cut is not None:
            break
    return Shrunk(small, removed, refused, tuple(sorted(folded)), _count(model), _count(small))


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _revealing(model: nn.Module, cut: ChannelCut) -> nn.Module:
    """Return a masked model whose outputs depend on all of it.

    A layer that starts as zeros, as heads and branches often do, would hide the mistakes of a
    smaller model; in a copy, it is given other weights.
    """
    silent = [name for name, p in model.named_parameters() if p.dim() > 1 and not p.any()]
    if not silent:
        return model
    model = copied(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in silent:
            weight = model.get_parameter(name)
            weight.copy_(torch.randn(weight.shape, generator=generator) / weight[0].numel() ** 0.5)
    cut.apply(model)
    return model


def _without(
    models: tuple[nn.Module, nn.Module],
    groups: Groups,
    units: frozenset[int],
    folds: Sequence[Fold],
    example: Inputs,
) -> tuple[nn.Module, dict[str, int], dict[str, str], frozenset[str]]:
    """Take units out of a model.

    Args:
        models: the model, and one with the same zeros and sizes, on which cuts are tried.
        groups: of both.
        units: which to take out.
        folds: constants that weights read from them.
        example: inputs.

    Returns:
        The smaller model; how many units of each group it lacks; which groups are refused, and
        why; and the layers to whose bias constants were added.
    """
    base, probe = models
    want = outputs(probe, example)
    wanted = [group for group in groups if not units.isdisjoint(group.units)]
    accepted: dict[Group, Way] = {}
    refused: dict[str, str] = {}

    def built(
        model: nn.Module, gone: frozenset[int], new: Changes
    ) -> tuple[nn.Module, frozenset[str]]:
        small = copied(model)
        changed, axes = fold(small, folds, gone)
        cut_out(small, replace(groups, axes=(*groups.axes, *axes)), gone)
        numbers.apply(small, new)
        return small, changed

    def numbers_of(ways: Mapping[Group, Way]) -> tuple[frozenset[int], Changes]:
        gone = frozenset(unit for group in ways for unit in group.units) & units
        by_unit = {unit: way for group, way in ways.items() for unit in group.units if unit in gone}
        ways_of = (next((by_unit[u] for u in s.units if u in by_unit), None) for s in groups.sizes)
        return gone, numbers.changes(base, [*zip(groups.sizes, ways_of, strict=True)], gone)

    def accept(members: Sequence[Group]) -> None:
        """Accept groups, all at once or by halves: a few that fail then cost few trials."""
        reasons: dict[str, str] = {}  # by the changes that were tried
        for way in WAYS:
            ways = {**accepted, **dict.fromkeys(members, way)}
            gone, new = numbers_of(ways)
            if (tried := repr(sorted(new.items(), key=repr))) in reasons:
                continue
            reason = difference(built(probe, gone, new)[0], example, want)
            if reason is None:
                accepted.update(ways)
                return
            reasons[tried] = reason
        if len(members) == 1:
            refused[members[0].name] = next(iter(reasons.values()))
        else:
            accept(members[: len(members) // 2])
            accept(members[len(members) // 2 :])

    if wanted:
        accept(wanted)
    counts = {group.name: len(units.intersection(group.units)) for group in accepted}
    small, changed = built(base, *numbers_of(accepted))
    return small, counts, refused, changed
