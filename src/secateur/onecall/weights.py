"""Single weights, n of every m, or blocks are cut: the model keeps its shapes, and has zeros."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor, nn

from secateur.model.copying import copied
from secateur.model.parameters import parameters
from secateur.onecall.goal import Goal
from secateur.onecall.job import Job
from secateur.onecall.placing import Costs, costs_for
from secateur.onecall.pruned import Pruned, recalibrated
from secateur.pruning.criteria import magnitude
from secateur.pruning.gates.gates import Gates, gated
from secateur.pruning.recovery.reconstruct import reconstruct
from secateur.pruning.selecting.budget import Budget
from secateur.pruning.selecting.division import divided
from secateur.pruning.selecting.masks import Masks
from secateur.pruning.selecting.ranking import PIECE, Scores, values_of
from secateur.pruning.selecting.selection import select
from secateur.pruning.selecting.streaming import TOGETHER, select_streaming, streams


@dataclass(frozen=True)
class Weights:
    """The way of a job that leaves the model's shapes as they are."""

    job: Job
    goal: Goal | None = None
    """What is solved for."""

    @cached_property
    def _costs(self) -> Costs | None:
        """What weights cost, where scores are to be seen in proportion to it."""
        return costs_for(self.goal, self.job) if self.goal else None

    @cached_property
    def total(self) -> int:
        """How many weights there are to choose from."""
        return self.job.plan.total(self.job.model)

    @cached_property
    def _scores(self) -> Mapping[str, Scores]:
        if self.job.criterion.name == "magnitude":  # no copy of a large model
            return magnitude.lazy(self.job.model, self.job.plan.names)
        return self.job.scores

    def prune(self, keep: float, model: nn.Module) -> Pruned:
        """Cut and repair a model that is as the job's, in place."""
        job, masks = self.job, self._masks(keep)
        Gates(model, gated(model)).remove()
        done: tuple[str, ...] = ()
        notes = [f"{name} keeps no weight: nothing gets through it" for name in masks.emptied]
        notes += [self._costs.note] if keep < 1 and self._costs is not None else []
        notes += self._at_floors(keep, masks)
        if job.recover == "reconstruct" and job.data is not None:
            found = reconstruct(model, copied(model), masks, job.data, seed=job.seed)
            done = ("reconstruct",) if found.layers else ()
            notes += [f"{name} is not reconstructed: {why}" for name, why in found.skipped.items()]
        masks.apply(model)
        return Pruned(
            model,
            self._budget(keep),
            masks=masks,
            cut=masks,
            parameters=job.size - (masks.total - masks.kept),
            macs=job.work.kept(masks.layers) if job.work else None,
            recovery=done + recalibrated(model, job.recover, job.data),
            notes=tuple(notes),
        )

    def parameters(self, keep: float) -> int:
        """Return how many parameters are left."""
        job, budget = self.job, self._budget(keep)
        if budget.pattern.unit != "weights" or budget.pattern.ratio is not None:
            masks = self._masks(keep)
            return job.size - (masks.total - masks.kept)
        sizes = [weight.numel() for weight in parameters(job.model, job.plan.names).values()]
        pools = divided(budget, job.plan.names, sizes)  # K is known without ranking anything
        kept = sum(sum(pool.guaranteed) + pool.remaining for pool in pools)
        return job.size - sum(sizes) + kept

    def macs(self, keep: float) -> int:
        """Return how many multiply-adds of one pass are left."""
        assert self.job.work
        return self.job.work.kept(self._masks(keep).layers)

    def _at_floors(self, keep: float, masks: Masks) -> list[str]:
        """Say which layers were cut to their floor, where others kept a share of what was there.

        A layer far below all others lets little through, and there the floor has no part in it.
        """
        budget = self._budget(keep)
        if budget.pattern.ratio or keep <= 4 * budget.floor or budget.scope in ("layer", "row"):
            return []
        own = "" if budget.pattern.unit == "weights" else f", pattern={str(budget.pattern)!r}"
        return [
            f"{name} fell to its floor: it keeps {kept:,} of {size:,} weights ({kept / size:.2g}), "
            f"where {keep:.2g} was asked for in all; Budget({keep:.4g}, scope='layer'{own}) keeps "
            "the same fraction of every layer"
            for name, (kept, size) in masks.layers.items()
            if 0 < kept < keep * size
            and budget.override(name) is None
            and self._is_at_floor(budget, name, masks[name])
        ]

    def _is_at_floor(self, budget: Budget, name: str, mask: Tensor) -> bool:
        """Return whether a tensor keeps no more weights, or blocks, than its floor guarantees."""
        axis = self.job.plan.axes.get(name)
        axis, pattern = 1 if axis is None else axis, budget.pattern
        units = pattern.units(mask.shape, axis)
        kept = int(values_of(pattern.scores(mask, axis, PIECE)).count_nonzero())
        return kept == budget.least(units)

    def _budget(self, keep: float) -> Budget:
        return replace(self.job.budget, keep=keep)

    def _masks(self, keep: float) -> Masks:
        job, budget = self.job, self._budget(keep)
        if keep < 1 and self._costs is not None:  # they are not measured where nothing is cut
            return select(self._costs.weighed(self._scores), budget, axes=job.plan.axes)
        if job.criterion.name != "magnitude" and self.total > TOGETHER and streams(budget):
            weights = parameters(job.model, job.plan.names)
            return select_streaming(weights, job.scores_of, budget, axes=job.plan.axes)
        return select(self._scores, budget, axes=job.plan.axes)
