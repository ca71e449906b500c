"""Prune any model in one call: score, select, apply, recover, and count what it came to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import torch
from torch import Tensor, nn

from secateur.counting import Example, work
from secateur.cutting import (
    Channels,
    Job,
    Pruned,
    Recover,
    Way,
    Weights,
    bytes_of,
    device_of,
    file_bytes,
    left,
)
from secateur.errors import UsageError
from secateur.pruning.admission import admit, copied, refuse_inference
from secateur.pruning.budget import Budget, Scope
from secateur.pruning.calibration import Calibration, Loss
from secateur.pruning.gates import SUFFIX
from secateur.pruning.parameters import prunable, refuse_conflicts
from secateur.result import Amount, Attempt, Layer, Result
from secateur.solve import GOALS, Goal

Data = Calibration | Tensor | Iterable[Any]


def prune(
    model: nn.Module,
    keep: float | None = None,
    *,
    criterion: str | None = None,
    data: Data | None = None,
    loss: Loss | None = None,
    example: Example | None = None,
    scope: Scope | None = None,
    floor: float = 0.002,
    pattern: str = "weight",
    overrides: Mapping[str, float] | Sequence[tuple[str, float]] = (),
    exclude: Sequence[str] = (),
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
            of one sample, or bytes of the file that `save` writes; latency_ms=: milliseconds of
            one pass over the example, compiled for this machine, the median of many.
        criterion: a name in `secateur.pruning.criteria.CRITERIA`; by default gate for a model
            with gates, and magnitude for others.
        data: training inputs, augmented as in training: a `Calibration`, a tensor [N, ...], or
            batches of inputs or of (inputs, targets), such as a DataLoader.
        loss: (outputs as float32, targets) → scalar; for criteria that need gradients.
        example: inputs of one pass, to count multiply-adds, and for channels and latency; by
            default the first of the data.
        scope: as in `Budget`; by default global, and layer for channels, of which a global rank
            would empty the widest layers.
        floor: as in `Budget`.
        pattern: as in `Budget`; n:m needs no `keep`.
        overrides: as in `Budget`: glob → keep ratio of the parameters that match.
        exclude: as in `prunable`.
        include_first: as in `prunable`.
        minimum: with channels, every layer keeps so many at least.
        multiple: with channels, every layer keeps a multiple of so many.
        recover: none; batchnorm: statistics are taken again; reconstruct: kept weights are solved
            again, then batchnorm; auto: batchnorm where there is data.
        samples: how many of the data are looked at, at most.
        autocast: run the model in bf16, as it was trained.
        in_place: cut the given model itself, and return it; not with channels.
        seed: of criteria that draw at random.
        evaluate: model → metric on validation data; for max_drop.
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
    wanted = _wanted(goal, keep, pattern, evaluate)
    scope = scope or ("layer" if pattern == "channel" else "global")
    budget = Budget(1.0 if wanted else keep, scope, floor, pattern, overrides)
    inner = admit(model)
    if in_place:
        refuse_inference(inner)
    plan = prunable(inner, include_first=include_first, exclude=exclude)
    refuse_conflicts(inner, plan.names, budget)
    if criterion is None:
        gated = any(name.endswith(SUFFIX) for name, _ in inner.named_buffers())
        criterion = "gate" if gated else "magnitude"
    seen = calibration_of(data, loss, samples, autocast, inner)
    if example is None and seen is not None:
        example = seen.inputs[0][:1]
    job = Job(inner, plan, budget, criterion, seed, seen, example, recover)
    if pattern == "channel" and in_place:
        raise UsageError("channels make another, smaller model; leave out in_place")
    way: Way = Channels(job, minimum, multiple) if pattern == "channel" else Weights(job)
    dense = _Dense(inner, job)
    attempts: tuple[Attempt, ...] = ()
    if wanted:
        measure = _measure(wanted, job, way, evaluate, higher_is_better)
        keep, attempts = wanted.solve(measure, way.total)
        budget = replace(budget, keep=keep)
    pruned = way.prune(budget.keep, inner if in_place else copied(inner))
    return (model if in_place else pruned.model), _result(job, dense, budget, pruned, attempts)


def calibration_of(
    data: Data | None, loss: Loss | None, samples: int, autocast: bool, model: nn.Module
) -> Calibration | None:
    """Return data of any of the usual forms as a calibration set on the model's device.

    Raises:
        UsageError: the batches are neither tensors nor pairs of tensors; or as `Calibration`.
    """
    if data is None or isinstance(data, Calibration):
        return data
    device = device_of(model)
    inputs: list[Tensor] = []
    targets: list[Tensor] = []
    left = samples
    for batch in torch.split(data, 256) if isinstance(data, Tensor) else data:
        if left <= 0:
            break
        pair = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
        if not 1 <= len(pair) <= 2 or not all(isinstance(part, Tensor) for part in pair):
            kind = ", ".join(type(part).__name__ for part in pair)
            raise UsageError(
                f"a batch of the data is ({kind}); give batches that are a tensor of inputs, or "
                "a pair of inputs and targets"
            )
        inputs.append(pair[0][:left].to(device))
        if len(pair) == 2:
            targets.append(pair[1][:left].to(device))
        left -= len(inputs[-1])
    return Calibration(tuple(inputs), tuple(targets), loss, autocast)


def _wanted(
    goal: Mapping[str, float],
    keep: float | None,
    pattern: str,
    evaluate: Callable[[nn.Module], float] | None,
) -> Goal | None:
    """Return the goal, if one was given in place of a keep ratio."""
    if len(goal) + (keep is not None) > 1:
        given = [*(["keep"] if keep is not None else []), *goal]
        raise UsageError(f"{' and '.join(given)} are given; give one of them")
    if not goal:
        if keep is None and ":" not in pattern:
            raise UsageError(
                f"how much is to be kept? give keep=, for example 0.1, or one of {', '.join(GOALS)}"
            )
        return None
    ((name, limit),) = goal.items()
    wanted = Goal(name, limit)
    if ":" in pattern:
        raise UsageError(f"pattern {pattern!r} leaves nothing to solve for; leave out {name}=")
    if name == "max_drop" and evaluate is None:
        raise UsageError(
            "max_drop= needs evaluate=, a function from the model to its metric on validation data"
        )
    return wanted


def _measure(
    goal: Goal,
    job: Job,
    way: Way,
    evaluate: Callable[[nn.Module], float] | None,
    higher_is_better: bool,
) -> Callable[[float], float]:
    """Return keep ratio → what the goal limits."""

    def pruned(keep: float) -> nn.Module:
        return way.prune(keep, copied(job.model)).model

    if goal.name == "params":
        return way.parameters
    if goal.name == "bytes":
        return lambda keep: file_bytes(pruned(keep))
    if goal.name == "max_drop":
        assert evaluate is not None
        sign = 1 if higher_is_better else -1
        dense = evaluate(job.model)
        return lambda keep: sign * (dense - evaluate(pruned(keep)))
    if job.example is None:
        raise UsageError(f"{goal.name}= runs the model; give it an example= input, or data")
    if goal.name == "macs":
        return way.macs
    from secateur.latency import compiled_latency  # needs the extra "compile"

    example = job.example
    return lambda keep: compiled_latency(pruned(keep), example)


class _Dense:
    """Figures of the model before it is cut; in place, it is not there any more afterwards."""

    def __init__(self, model: nn.Module, job: Job) -> None:
        self.bytes = bytes_of(model)
        self.size, self.work = job.size, job.work


def _result(
    job: Job, dense: _Dense, budget: Budget, pruned: Pruned, attempts: tuple[Attempt, ...]
) -> Result:
    masks, layers = pruned.masks, pruned.masks.layers
    smaller = budget.pattern == "channel"
    after = left(dense.size, masks)
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
        masks=masks,
        layers=tuple(
            Layer(name, tuple(masks[name].shape), *layers[name], counts.get(name))
            for name in job.plan.names
        ),
        excluded=dict(job.plan.excluded),
        weights=Amount(masks.total, masks.kept),
        parameters=Amount(dense.size, after),
        macs=macs,
        bytes=Amount(dense.bytes, file_bytes(pruned.model)),
        recovery=pruned.recovery,
        attempts=attempts,
        notes=pruned.notes,
    )
