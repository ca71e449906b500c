"""Whole channels, neurons and heads are cut: the model gets smaller."""

from __future__ import annotations

import glob
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import nn

from secateur.errors import UsageError
from secateur.measure.work import work
from secateur.model.inputs import Inputs
from secateur.model.parameters import parameters
from secateur.onecall.job import Job
from secateur.onecall.pruned import Pruned, recalibrated
from secateur.pruning.channels import ChannelCut, Groups, channel_groups, select_channels
from secateur.pruning.gates.gates import Gates, gated
from secateur.pruning.selecting.masks import Masks
from secateur.pruning.smaller.shrinking import Shrunk, shrink


@dataclass(frozen=True)
class Channels:
    """The way of a job that makes a smaller model.

    Raises:
        UsageError: weights are to be reconstructed; or, from its methods, there is no example to
            run the model on.
    """

    job: Job
    minimum: int
    multiple: int

    def __post_init__(self) -> None:
        if self.job.recover == "reconstruct":
            raise UsageError(
                "recover='reconstruct' solves single weights again, not a smaller model's; "
                "leave it out with pattern 'channel'"
            )

    @property
    def total(self) -> int:
        """How many channels there are to choose from."""
        return self._groups.units

    def prune(self, keep: float, model: nn.Module) -> Pruned:
        """Return a smaller model, repaired; the given one, which is as the job's, is used up."""
        Gates(model, gated(model)).remove()
        cut = self._cut(keep)
        small = shrink(model, cut, self._example)
        notes = [f"{cut.kept:,} of {cut.total:,} channels, neurons and heads are kept"]
        if cut.kept == cut.total:
            notes.append("nothing was cut: what minimum and multiple leave is all there is")
        notes += [f"{name} was not made smaller: {why}" for name, why in small.refused.items()]
        notes += [f"channels of {name} stay: {why}" for name, why in self._groups.blocked.items()]
        sizes = parameters(small.model, tuple(cut.masks))
        return Pruned(
            small.model,
            replace(self.job.budget, keep=keep),
            masks=Masks({n: torch.ones_like(p, dtype=torch.bool) for n, p in sizes.items()}),
            cut=cut.masks,
            parameters=small.after,
            macs=work(small.model, self._example).total,
            recovery=recalibrated(small.model, self.job.recover, self.job.data),
            notes=tuple(notes),
        )

    def parameters(self, keep: float) -> int:
        """Return how many parameters are left."""
        return self._smaller(keep).after

    def macs(self, keep: float) -> int:
        """Return how many multiply-adds of one pass are left."""
        return work(self._smaller(keep).model, self._example).total

    @cached_property
    def _groups(self) -> Groups:
        left_out = self.job.plan.excluded.items()
        names = [name for name, why in left_out if why == "frozen" or why.startswith("excluded")]
        exclude = [glob.escape(name) for name in names]
        return channel_groups(self.job.model, self._example, exclude=exclude)

    @property
    def _example(self) -> Inputs:
        if self.job.example is None:
            raise UsageError("pattern 'channel' runs the model; give it an example= input, or data")
        return self.job.example

    def _cut(self, keep: float) -> ChannelCut:
        budget = replace(self.job.budget, keep=keep)
        limits = {"minimum": self.minimum, "multiple": self.multiple}
        return select_channels(self.job.scores, self._groups, budget, **limits)

    def _smaller(self, keep: float) -> Shrunk:
        return shrink(self.job.model, self._cut(keep), self._example)
