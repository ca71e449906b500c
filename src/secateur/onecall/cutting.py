"""Two ways to cut a model at a keep ratio: single weights (and n:m, blocks), or whole channels."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from secateur.errors import UsageError
from secateur.measure.work import Work, work
from secateur.model.copying import copied
from secateur.model.inputs import Inputs
from secateur.model.parameters import parameters
from secateur.pruning.calibration import Calibration
from secateur.pruning.channels import ChannelCut, Groups, channel_groups, select_channels
from secateur.pruning.criteria import find, magnitude
from secateur.pruning.files.model_file import packed_bytes
from secateur.pruning.gates.gates import SUFFIX, Gates
from secateur.pruning.parameters import Prunable
from secateur.pruning.recovery.batchnorm import recalibrate
from secateur.pruning.recovery.reconstruct import reconstruct
from secateur.pruning.selecting.budget import Budget
from secateur.pruning.selecting.division import divided
from secateur.pruning.selecting.masks import Masks
from secateur.pruning.selecting.selection import select
from secateur.pruning.selecting.streaming import TOGETHER, select_streaming, streams
from secateur.pruning.smaller.shrinking import shrink

Recover = Literal["auto", "none", "batchnorm", "reconstruct"]


@dataclass(frozen=True)
class Pruned:
    """A model after the cut, and what the cut was."""

    model: nn.Module
    masks: Masks
    """Of the pruned model: to hold, and to save with it. All True where it has become smaller."""
    cut: Masks
    """What was cut, by the names and shapes before."""
    recovery: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass
class Job:
    """A model, what may be cut of it, and everything that several cuts of it share."""

    model: nn.Module
    plan: Prunable
    budget: Budget
    criterion: str
    seed: int
    data: Calibration | None
    example: Inputs | None
    recover: Recover

    def __post_init__(self) -> None:
        if self.recover in ("batchnorm", "reconstruct") and self.data is None:
            raise UsageError(
                f"recover={self.recover!r} looks at data; give it data=, unlabelled inputs"
            )
        if self.data is not None:
            self.data.check(self.model)

    @cached_property
    def scores(self) -> Mapping[str, Any]:
        """The criterion's scores of everything that may be cut."""
        return self.scores_of(self.plan.names)

    def scores_of(self, names: Sequence[str]) -> Mapping[str, Any]:
        """Return the criterion's scores of some of it."""
        rule = find(self.criterion)
        return rule.scores(self.model, names, seed=self.seed, calibration=self.data)

    @cached_property
    def work(self) -> Work | None:
        """Multiply-adds of one pass of the dense model over the example, if there is one."""
        return None if self.example is None else work(self.model, self.example)

    @cached_property
    def size(self) -> int:
        """Parameters of the dense model."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def recalibrated(self, model: nn.Module) -> tuple[str, ...]:
        """Recalibrate batch norms where that is wanted; return what was done."""
        if self.recover == "none" or self.data is None:
            return ()
        layers = recalibrate(model, self.data.inputs, autocast=self.data.autocast)
        return ("batchnorm",) if layers else ()


class Way(Protocol):
    """How a model is cut: what `prune` asks."""

    @property
    def total(self) -> int:
        """How many weights, blocks or channels there are to choose from."""

    def prune(self, keep: float, model: nn.Module) -> Pruned:
        """Cut and repair a model that is as the job's: in place, or a smaller one is returned."""

    def parameters(self, keep: float) -> int:
        """Return how many parameters are left."""

    def macs(self, keep: float) -> int:
        """Return how many multiply-adds of one sample are left."""


class Weights:
    """Single weights, n of every m, or blocks: the model keeps its shapes, and has zeros."""

    def __init__(self, job: Job) -> None:
        self._job = job

    @property
    def total(self) -> int:
        """As `Way` says."""
        return self._job.plan.total(self._job.model)

    @cached_property
    def _scores(self) -> Mapping[str, Any]:
        if self._job.criterion == "magnitude":  # no copy of a large model
            return magnitude.lazy(self._job.model, self._job.plan.names)
        return self._job.scores

    def masks(self, keep: float) -> Masks:
        """Return the masks at a keep ratio."""
        job, budget = self._job, replace(self._job.budget, keep=keep)
        if job.criterion != "magnitude" and self.total > TOGETHER and streams(budget):
            weights = parameters(job.model, job.plan.names)
            return select_streaming(weights, job.scores_of, budget, axes=job.plan.axes)
        return select(self._scores, budget, axes=job.plan.axes)

    def prune(self, keep: float, model: nn.Module) -> Pruned:
        """As `Way` says."""
        job, masks = self._job, self.masks(keep)
        if any(name.endswith(SUFFIX) for name, _ in model.named_buffers()):
            Gates.of(model).remove()
        done: tuple[str, ...] = ()
        notes = [f"{name} keeps no weight: nothing gets through it" for name in masks.emptied]
        if job.recover == "reconstruct":
            assert job.data is not None
            found = reconstruct(model, copied(model), masks, job.data, seed=job.seed)
            done = ("reconstruct",) if found.layers else ()
            notes += [f"{name} is not reconstructed: {why}" for name, why in found.skipped.items()]
        masks.apply(model)
        done += job.recalibrated(model)
        return Pruned(model, masks, masks, done, tuple(notes))

    def parameters(self, keep: float) -> int:
        """As `Way` says."""
        job, budget = self._job, replace(self._job.budget, keep=keep)
        if budget.pattern.unit != "weights" or budget.pattern.ratio is not None:
            return left(job.size, self.masks(keep))
        sizes = [weight.numel() for weight in parameters(job.model, job.plan.names).values()]
        pools = divided(budget, job.plan.names, sizes)  # K is known without ranking anything
        kept = sum(sum(pool.guaranteed) + pool.remaining for pool in pools)
        return job.size - sum(sizes) + kept

    def macs(self, keep: float) -> int:
        """As `Way` says."""
        assert self._job.work
        return self._job.work.kept(self.masks(keep).layers)


class Channels:
    """Whole channels, neurons and heads: the model gets smaller."""

    def __init__(self, job: Job, minimum: int, multiple: int) -> None:
        if job.example is None:
            raise UsageError("pattern 'channel' runs the model; give it an example= input, or data")
        if job.recover == "reconstruct":
            raise UsageError(
                "recover='reconstruct' solves single weights again, not a smaller model's; "
                "leave it out with pattern 'channel'"
            )
        self._job, self._limits = job, {"minimum": minimum, "multiple": multiple}

    @cached_property
    def groups(self) -> Groups:
        """The channels that are coupled."""
        left_out = self._job.plan.excluded.items()
        names = [name for name, why in left_out if why == "frozen" or why.startswith("excluded")]
        return channel_groups(
            self._job.model, self._example, exclude=[glob.escape(name) for name in names]
        )

    @property
    def total(self) -> int:
        """As `Way` says."""
        return self.groups.units

    @property
    def _example(self) -> Any:
        return self._job.example

    def cut(self, keep: float) -> ChannelCut:
        """Return the cut at a keep ratio of the channels."""
        job = self._job
        budget = replace(job.budget, keep=keep)
        return select_channels(job.scores, self.groups, budget, **self._limits)

    def prune(self, keep: float, model: nn.Module) -> Pruned:
        """As `Way` says."""
        if any(name.endswith(SUFFIX) for name, _ in model.named_buffers()):
            Gates.of(model).remove()
        cut = self.cut(keep)
        small = shrink(model, cut, self._example)
        notes = [f"{cut.kept:,} of {cut.total:,} channels, neurons and heads are kept"]
        if cut.kept == cut.total:
            notes.append("nothing was cut: what minimum and multiple leave is all there is")
        notes += [f"{name} was not made smaller: {why}" for name, why in small.refused.items()]
        notes += [f"channels of {name} stay: {why}" for name, why in self.groups.blocked.items()]
        sizes = parameters(small.model, tuple(cut.masks))
        whole = Masks({n: torch.ones_like(p, dtype=torch.bool) for n, p in sizes.items()})
        done = self._job.recalibrated(small.model)
        return Pruned(small.model, whole, cut.masks, done, tuple(notes))

    def parameters(self, keep: float) -> int:
        """As `Way` says."""
        return sum(p.numel() for p in self._smaller(keep).parameters())

    def macs(self, keep: float) -> int:
        """As `Way` says."""
        return work(self._smaller(keep), self._example).total

    def _smaller(self, keep: float) -> nn.Module:
        return shrink(self._job.model, self.cut(keep), self._example).model


def left(size: int, masks: Masks) -> int:
    """Return how many of a model's parameters masks leave."""
    return size - (masks.total - masks.kept)


def file_bytes(model: nn.Module, masks: Masks | None = None, budget: Budget | None = None) -> int:
    """Return the size of the file that `save` writes, without what is no tensor (extra state)."""
    state = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    return packed_bytes(state, masks=masks, budget=budget)


def has_statistics(model: nn.Module) -> bool:
    """Return whether a model has batch norms whose statistics can be taken again."""
    return any(
        isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
        for module in model.modules()
    )


def device_of(model: nn.Module) -> torch.device:
    """Return the device that a model's parameters lie on."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))
