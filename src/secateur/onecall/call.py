"""Prune any model in one call: score, select, apply, recover, and count what it came to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from inspect import signature
from typing import get_args

from torch import nn

from secateur.arguments import BOOL, FUNCTION, GLOBS, SEED, TENSORS, TEXT, checked, whole
from secateur.errors import UsageError
from secateur.measure.work import work
from secateur.model.copying import copied
from secateur.model.inputs import Inputs
from secateur.onecall.arguments import (
    Data,
    calibration_of,
    checked_example,
    figure_of,
    first_sample,
    refuse_no_data,
    wanted_goal,
)
from secateur.onecall.cutting import (
    Channels,
    Job,
    Pruned,
    Recover,
    Way,
    Weights,
    device_of,
    file_bytes,
    has_statistics,
    left,
)
from secateur.onecall.result import Amount, Attempt, Layer, Result
from secateur.onecall.solve import Goal
from secateur.pruning.calibration import Loss
from secateur.pruning.criteria import find
from secateur.pruning.gates.gates import SUFFIX
from secateur.pruning.parameters import prunable
from secateur.pruning.selecting.budget import Budget, Scope
from secateur.pruning.selecting.overrides import refuse_conflicts
from secateur.pruning.selecting.patterns import parse
from secateur.pruning.unprunable import refuse_inference, refuse_unprunable


@checked(
    criterion=TEXT,
    data=TENSORS,
    loss=FUNCTION,
    example=TENSORS,
    include_first=BOOL,
    minimum=whole(1, "1 or more, a whole number"),
    multiple=whole(1, "1 or more, a whole number"),
    autocast=BOOL,
    in_place=BOOL,
    seed=SEED,
    evaluate=FUNCTION,
    higher_is_better=BOOL,
    exclude=GLOBS,
    include=GLOBS,
)
def prune(
    model: nn.Module,
    keep: float | None = None,
    *,
    criterion: str | None = None,
    data: Data | None = None,
    loss: Loss | None = None,
    example: Inputs | None = None,
    scope: Scope | None = None,
    floor: float = 0.002,
    pattern: str = "weight",
    overrides: Mapping[str, float] | Sequence[tuple[str, float]] = (),
    exclude: Sequence[str] = (),
    include: Sequence[str] = (),
    include_first: bool = False,
    minimum: int = 1,
    multiple: int = 1,
    recover: Recover = "auto",
    samples: int = 4096,
    autocast: bool = False,
    in_place: bool = False,
    seed: int = 0,
    evaluate: Callable[[nn.Module], float] | None = None,
    higher_is_better: bool = True,
    **goal: float,
) -> tuple[nn.Module, Result]:
    """Cut a model to a keep ratio, or as far as a goal allows, and repair what can be repaired.

    The model comes back with its own keys and classes. Train it on with `result.masks.hold(model)`
    after every optimizer step, and the zeros stay.

    Args:
        model: any module; not changed unless `in_place`. Wrappers (data-parallel, compiled) are
            looked through: the copy is the module inside.
        keep: keep ratio of the prunable weights, in (0, 1]. Or, in its place, one goal:
            max_drop=0.5: the smallest keep ratio found at which `evaluate` falls by no more;
            params=, macs=, bytes=: at most so many parameters that are not cut, multiply-adds
            of a pass over the example, or bytes of the file that `save` writes with masks and
            budget; latency_ms=: milliseconds of such a pass, compiled for this machine, the
            median of many.
        criterion: a name in `secateur.pruning.criteria.CRITERIA`; by default gate for a model
            with gates, and magnitude for others.
        data: training inputs, augmented as in training: a `Calibration`, inputs, or batches of
            inputs or of (inputs, targets), such as a DataLoader. Inputs are a tensor [N, ...], a
            dict of arguments by the names of forward's (what tokenizers and their collators
            give), or in a pair also a tuple of arguments. Arguments may be nested tuples, lists,
            dicts and dataclasses of tensors [N, ...], with None, numbers and texts beside them.
        loss: (outputs as float32, targets) → scalar; for criteria that need gradients. Outputs
            that are no tensor come as the model gives them. With dicts that hold labels it may
            be left out: the model's own is taken.
        example: inputs of one pass, to count multiply-adds, for channels and latency, and to see
            along which dimension n:m and blocks go in raw parameters that do not say it: a
            tensor, a tuple of arguments, or a dict of arguments by the names of forward's; by
            default the first sample of the data. A model that takes one dict gets
            `({"x": tensor},)`, and one that takes one list `([first, second],)`.
        scope: as in `Budget`; by default global, and layer for channels, of which a global rank
            would empty the widest layers.
        floor: as in `Budget`.
        pattern: as in `Budget`; n:m needs no `keep`.
        overrides: as in `Budget`: glob → keep ratio of the parameters that match.
        exclude: as in `prunable`.
        include: as in `prunable`.
        include_first: as in `prunable`.
        minimum: with channels, every layer keeps so many at least.
        multiple: with channels, every layer keeps a multiple of so many.
        recover: none; batchnorm: statistics are taken again; reconstruct: kept weights are solved
            again, then batchnorm; auto: batchnorm where there is data.
        samples: how many of the data are looked at, at most.
        autocast: run the model in bf16, as it was trained.
        in_place: cut the given model itself, and return it; not with channels.
        seed: of criteria that draw at random.
        evaluate: model → metric on validation data; for max_drop. It is given copies, in
            evaluation mode.
        higher_is_better: of the metric.
        goal: the one goal, if no keep ratio is given.

    Returns:
        the pruned model, in the mode of the given one, and what was done.

    Raises:
        UsageError: arguments that cannot be meant, and what criteria and recovery refuse.
        BudgetError: no mask of this model meets the budget or goal; says what can be met.
        ScoreError: weights or scores are not finite; names the tensor.
    """
    if recover not in get_args(Recover):
        raise UsageError(
            f"recover is {recover!r}, but must be one of {', '.join(get_args(Recover))}"
        )
    refuse_no_data(data)
    shape = parse(pattern)
    wanted = wanted_goal(goal, keep, shape, evaluate, signature(prune).parameters)
    scope = scope or ("layer" if shape.smaller else "global")
    budget = Budget(1.0 if wanted else keep, scope, floor, pattern, overrides)
    inner = refuse_unprunable(model)
    if in_place:
        refuse_inference(inner)
    channels = shape.smaller
    if channels and in_place:
        raise UsageError("channels make another, smaller model; leave out in_place")
    if not channels and (minimum, multiple) != (1, 1):
        raise UsageError("minimum= and multiple= count channels; give them with pattern='channel'")
    if example is not None:
        example = checked_example(example)
    else:
        example = first_sample(data, device_of(inner))
    plan = prunable(
        inner,
        # of the first layer channels it is only the inputs that must stay, and they do
        include_first=include_first or channels,
        exclude=exclude,
        include=include,
        pattern=pattern,
        example=example if shape.directed else None,
    )
    refuse_conflicts(inner, plan.names, budget)
    if criterion is None:
        gated = any(name.endswith(SUFFIX) for name, _ in inner.named_buffers())
        criterion = "gate" if gated else "magnitude"
    repaired = recover in ("batchnorm", "reconstruct")
    repaired |= recover == "auto" and has_statistics(inner)
    if find(criterion).needs != "nothing" or repaired:
        seen = calibration_of(data, loss, samples, autocast, device_of(inner))
    else:
        seen = None  # there is nothing that it would be looked at for
    if example is None and seen is not None:
        example = seen.example
    job = Job(inner, plan, budget, criterion, seed, seen, example, recover)
    way: Way = Channels(job, minimum, multiple) if channels else Weights(job)
    dense = _Dense(inner, job)
    attempts: tuple[Attempt, ...] = ()
    if wanted:
        measure = _measure(wanted, job, way, evaluate, higher_is_better)
        keep, attempts = wanted.solve(measure, way.total)
        budget = replace(budget, keep=keep)
    otherwise = "" if channels else "prune it with in_place=True"
    pruned = way.prune(budget.keep, inner if in_place else copied(inner, otherwise=otherwise))
    result = _result(job, dense, budget, pruned, attempts, wanted)
    return (model if in_place else pruned.model), result


def _measure(
    goal: Goal,
    job: Job,
    way: Way,
    evaluate: Callable[[nn.Module], float] | None,
    higher_is_better: bool,
) -> Callable[[float], float]:
    """Return keep ratio → what the goal limits."""

    def pruned(keep: float) -> Pruned:
        return way.prune(keep, copied(job.model))

    if goal.name == "params":
        return way.parameters
    if goal.name == "bytes":

        def size(keep: float) -> int:
            found = pruned(keep)
            return file_bytes(found.model, found.masks, replace(job.budget, keep=keep))

        return size
    if goal.name == "max_drop":
        assert evaluate is not None
        sign = 1 if higher_is_better else -1
        # a copy, in evaluation mode, as the candidates are: what a pass changes stays there
        dense = figure_of(evaluate, copied(job.model).eval())
        return lambda keep: sign * (dense - figure_of(evaluate, pruned(keep).model.eval()))
    if job.example is None:
        raise UsageError(f"{goal.name}= runs the model; give it an example= input, or data")
    if goal.name == "macs":
        return way.macs
    from secateur.measure.latency import compiled_latency  # needs the extra "compile"

    example = job.example
    return lambda keep: compiled_latency(pruned(keep).model, example)


class _Dense:
    """Figures of the model before it is cut; in place, it is not there any more afterwards."""

    def __init__(self, model: nn.Module, job: Job) -> None:
        self.bytes = file_bytes(model)
        self.size, self.work = job.size, job.work


def _result(
    job: Job,
    dense: _Dense,
    budget: Budget,
    pruned: Pruned,
    attempts: tuple[Attempt, ...],
    goal: Goal | None,
) -> Result:
    cut, layers = pruned.cut, pruned.cut.layers
    smaller = budget.pattern.smaller
    after = left(dense.size, cut)
    macs = Amount(dense.work.total, dense.work.kept(layers)) if dense.work else None
    if smaller:
        after = sum(parameter.numel() for parameter in pruned.model.parameters())
        assert dense.work is not None
        assert job.example is not None
        macs = Amount(dense.work.total, work(pruned.model, job.example).total)
    counts = dense.work.parameters if dense.work else {}
    return Result(
        criterion=job.criterion,
        budget=budget,
        goal=(goal.name, goal.limit) if goal else None,
        masks=pruned.masks,
        layers=tuple(
            Layer(name, tuple(cut[name].shape), *layers[name], counts.get(name))
            for name in job.plan.names
        ),
        excluded=dict(job.plan.excluded),
        weights=Amount(cut.total, cut.kept),
        parameters=Amount(dense.size, after),
        macs=macs,
        bytes=Amount(dense.bytes, file_bytes(pruned.model, pruned.masks, budget)),
        recovery=pruned.recovery,
        attempts=attempts,
        notes=pruned.notes,
    )
