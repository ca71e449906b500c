"""Zeros where they save most: what a kept weight of each parameter costs, measured or counted.

A weight of a layer that runs at a thousand positions costs a thousand multiply-adds, one of a layer
that runs once costs one; and one of a layer whose dense kernel is as fast costs no time. To lose as
little as possible for a goal, weights are ranked by what they are worth for what they cost: of two
weights with equal squares the one that costs less stays.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from secateur.model.copying import copied
from secateur.model.parameters import parameters
from secateur.onecall.goal import Goal
from secateur.onecall.job import Job
from secateur.pruning.criteria import magnitude
from secateur.pruning.gates.gates import Gates, gated
from secateur.pruning.selecting.ranking import Scores, values_of
from secateur.pruning.selecting.selection import select

RATIOS = (0.5, 0.125)
"""Keep ratios of all layers at which they are timed: between them zeros begin to save time."""

LEAST = 1 / 64
"""Of the median cost of those that cost something: less is noise, and counted as this."""


@dataclass(frozen=True)
class Costs:
    """What weights cost."""

    each: Mapping[str, float]
    """Parameter → milliseconds, or multiply-adds, of a pass that one more kept weight takes."""

    def weighed(self, scores: Mapping[str, Scores]) -> dict[str, Tensor]:
        """Return scores divided by the square roots of costs, as squares count.

        What is below zero, as scores of gates may be, goes further down where it costs more.
        """
        least = min(self.each.values())
        shares = {name: (least / cost) ** 0.5 for name, cost in self.each.items()}
        values = {name: values_of(score) for name, score in scores.items()}
        return {
            name: torch.where(value < 0, value / shares[name], value * shares[name])
            for name, value in values.items()
        }

    @property
    def note(self) -> str:
        """What to say of it."""
        names = sorted(self.each, key=self.each.__getitem__)
        times = self.each[names[-1]] / self.each[names[0]]
        return (
            f"ranked by cost: a weight of {names[-1]} costs {times:.3g} times as much as one of "
            f"{names[0]}, and had to be worth more to stay; Goal(by_cost=False) ranks by the "
            "criterion alone"
        )


def costs_for(goal: Goal, job: Job) -> Costs | None:
    """Return what keeping a weight takes of what a goal limits.

    Multiply-adds are counted. For a latency every layer is timed with half and with an eighth of
    its weights, in the budget's pattern; what the difference comes to for a weight is its cost.
    Modules that run several parameters share theirs, and parameters whose layers cannot be told
    have the median.

    Returns:
        None where the criterion alone is to decide: the goal is another one or says so, the budget
        does not rank all weights together, there is no example, or zeros save nothing anywhere, or
        as much everywhere.

    Raises:
        CompileError: the network cannot be compiled, or quantised; says where and why.
    """
    free = job.budget.scope == "global" and job.budget.pattern.ratio is None
    if not (goal.by_cost and free and job.work):
        return None
    if goal.macs is not None:
        return _of(job.plan.names, {
            name: job.work.parameters[name] / weight.numel()
            for name, weight in parameters(job.model, job.plan.names).items()
            if job.work.parameters.get(name)
        })  # fmt: skip
    return _of(job.plan.names, _measured(job, goal.int8)) if goal.latency_ms is not None else None


def _of(names: Sequence[str], found: Mapping[str, float]) -> Costs | None:
    dear = [cost for cost in found.values() if cost > 0]
    if not dear:
        return None
    median = statistics.median(dear)
    each = {name: max(found.get(name, median), LEAST * median) for name in names}
    return Costs(each) if min(each.values()) < max(each.values()) else None


def _measured(job: Job, int8: bool) -> dict[str, float]:
    """Return the milliseconds that a kept weight of some parameters takes."""
    (more, many), (less, few) = (_timed(job, keep, int8) for keep in RATIOS)
    runs = {name: _module(name, more) for name in job.plan.names}
    kept: dict[str, int] = {}
    for name, module in runs.items():
        kept[module] = kept.get(module, 0) + many[name] - few[name]
    return {
        name: max(0.0, more[module] - less[module]) / kept[module]
        for name, module in runs.items()
        if module in more and module in less and kept[module] > 0
    }


def _timed(job: Job, keep: float, int8: bool) -> tuple[Mapping[str, float], Mapping[str, int]]:
    """Return the milliseconds of each module, and how many weights each parameter kept."""
    from secateur.measure.latency import layer_latencies  # the compiler: only this needs it

    assert job.example is not None
    cut, names = copied(job.model), job.plan.names
    budget = replace(job.budget, keep=keep, scope="layer", overrides=())
    masks = select(magnitude.lazy(cut, names), budget, axes=job.plan.axes)
    Gates(cut, gated(cut)).remove()
    masks.apply(cut)
    counts = {name: kept for name, (kept, _) in masks.layers.items()}
    # only ratios count, and one thread is disturbed least by what else a machine does
    return layer_latencies(cut, job.example, threads=1, int8=int8), counts


def _module(name: str, timed: Collection[str]) -> str:
    """Return the module that runs a parameter: its own, or where that was not timed the one around.

    Attention runs the weights of its output's projection itself.
    """
    own = name.rpartition(".")[0]
    around = own.rpartition(".")[0]
    return around if own not in timed and around and around in timed else own
