"""Prune any model in one call: score, select, apply, recover, and count what it came to."""

from __future__ import annotations

from typing import get_args

from torch import nn

from secateur.arguments import (
    BOOL,
    FUNCTION,
    SEED,
    TEXT,
    Wanted,
    a,
    checked,
    whole,
)
from secateur.errors import UsageError
from secateur.model.copying import copied
from secateur.model.inputs import EXAMPLE, Inputs
from secateur.onecall.channels import Channels
from secateur.onecall.goal import Goal, budget_of
from secateur.onecall.job import Recover, job_of
from secateur.onecall.renamed import renamed
from secateur.onecall.result import Result, result_of
from secateur.onecall.solving import solve
from secateur.onecall.weights import Weights
from secateur.pruning.calibration import FORMS, Data, Loss
from secateur.pruning.criteria import find
from secateur.pruning.parameters import Prunable
from secateur.pruning.selecting.budget import Budget
from secateur.pruning.unprunable import refuse_inference, refuse_unprunable

CHOICES = get_args(Recover)


@renamed
@checked(
    goal=a(Goal, "a Goal, such as Goal(params=100_000)"),
    criterion=TEXT,
    data=FORMS,
    loss=FUNCTION,
    example=EXAMPLE,
    plan=a(Prunable, "what prunable returns"),
    minimum=whole(1, "1 or more, a whole number"),
    multiple=whole(1, "1 or more, a whole number"),
    recover=Wanted(lambda v: v in CHOICES, f"one of {', '.join(CHOICES)}"),
    in_place=BOOL,
    seed=SEED,
)
def prune(
    model: nn.Module,
    keep: float | Budget | None = None,
    *,
    goal: Goal | None = None,
    pattern: str = "weight",
    criterion: str | None = None,
    data: Data | None = None,
    loss: Loss | None = None,
    example: Inputs | None = None,
    plan: Prunable | None = None,
    minimum: int = 1,
    multiple: int = 1,
    recover: Recover = "auto",
    in_place: bool = False,
    seed: int = 0,
) -> tuple[nn.Module, Result]:
    """Cut a model to a keep ratio, or as far as a goal allows, and repair what can be repaired.

    The model comes back with its own keys and classes. Train it on with `result.masks.hold(model)`
    after every optimizer step, and the zeros stay.

    Args:
        model: any module; not changed unless `in_place`. Wrappers (data-parallel, compiled) are
            looked through: the copy is the module inside.
        keep: keep ratio of the prunable weights, in (0, 1]; or a `Budget`, which says scope,
            floor, pattern and overrides too. A keep ratio ranks all weights together, but with
            criterion "wanda" those of every output by themselves, as it was published, and the
            channels of every layer by themselves, since one rank of all would empty the widest
            layers. Patterns n:m need no `keep`.
        goal: what to solve the keep ratio for, in its place or in place of a `Budget`'s.
        pattern: as in `Budget`; where `keep` is one, the pattern is that of the budget.
        criterion: a name in `secateur.pruning.criteria.CRITERIA`; by default gate for a model
            with gates, and magnitude for others.
        data: training inputs, augmented as in training: a `Calibration`, inputs, or batches of
            inputs or of (inputs, targets), such as a DataLoader, of which 4096 samples are looked
            at (`Calibration.of` takes more, or fewer, and runs the model in bf16). Inputs are a
            tensor [N, ...], a dict of arguments by the names of forward's (what tokenizers and
            their collators give), or in a pair also a tuple of arguments. Arguments may be nested
            tuples, lists, dicts and dataclasses of tensors [N, ...], with None, numbers and texts
            beside them.
        loss: (outputs as float32, targets) → scalar; for criteria that need gradients. Outputs
            that are no tensor come as the model gives them. With dicts that hold labels it may
            be left out: the model's own is taken.
        example: inputs of one pass, to count multiply-adds, for channels and latency, and to see
            along which dimension n:m and blocks go in raw parameters that do not say it: a
            tensor, a tuple of arguments, or a dict of arguments by the names of forward's; by
            default the first sample of the data. A model that takes one dict gets
            `({"x": tensor},)`, and one that takes one list `([first, second],)`.
        plan: what may be cut: `prunable(model, exclude=...)` and the like; by default
            `prunable(model)` with the pattern and the example. With pattern "channel" the first
            layer may be cut too.
        minimum: with channels, every layer keeps so many at least.
        multiple: with channels, every layer keeps a multiple of so many.
        recover: none; batchnorm: statistics are taken again; reconstruct: kept weights are solved
            again, then batchnorm; auto: batchnorm where there is data.
        in_place: cut the given model itself, and return it; not with channels.
        seed: of criteria that draw at random.

    Returns:
        the pruned model, in the mode of the given one, and what was done.

    Raises:
        UsageError: an argument is invalid, two do not go together, or the criterion or the
            recovery cannot work on this model or these data.
        BudgetError: no mask of this model meets the budget or goal; says what can be met.
        ScoreError: weights or scores are not finite; names the tensor.
    """
    budget = budget_of(keep, pattern, goal, find(criterion).scope if criterion else "global")
    channels = budget.pattern.smaller
    if channels and in_place:
        raise UsageError("channels make another, smaller model; leave out in_place")
    if not channels and (minimum, multiple) != (1, 1):
        raise UsageError("minimum= and multiple= count channels; give them with pattern='channel'")
    inner = refuse_unprunable(model)
    if in_place:
        refuse_inference(inner)
    job = job_of(
        inner,
        budget,
        plan=plan,
        criterion=criterion,
        data=data,
        loss=loss,
        example=example,
        recover=recover,
        seed=seed,
    )
    way = Channels(job, minimum, multiple) if channels else Weights(job, goal)
    ratio, attempts = (budget.keep, ()) if goal is None else solve(goal, way)
    hint = "" if channels else "prune it with in_place=True"
    pruned = way.prune(ratio, inner if in_place else copied(inner, otherwise=hint))
    return (model if in_place else pruned.model), result_of(job, pruned, goal, attempts)
