"""What users give to `prune`, looked at before any work is done."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.counting import Example
from secateur.errors import UsageError
from secateur.oneshot.solve import GOALS, Goal
from secateur.pruning.calibration import Calibration, Loss

Data = Calibration | Tensor | Iterable[Any]
Evaluate = Callable[[nn.Module], float]


def wanted_goal(
    goal: Mapping[str, float],
    keep: float | None,
    pattern: str,
    evaluate: Evaluate | None,
    known: Iterable[str],
) -> Goal | None:
    """Return the goal, if one was given in place of a keep ratio.

    Args:
        goal: the keyword arguments that `prune` does not name.
        keep: keep ratio, if one was given.
        pattern: as in `Budget`.
        evaluate: model → metric.
        known: the arguments that `prune` names, to guess what a wrong one was meant to be.

    Raises:
        UsageError: there is no such argument, none or several were given, or one of them makes
            no sense beside the others.
    """
    for name in goal:
        if name not in GOALS:
            near = difflib.get_close_matches(name, [*known, *GOALS], 1)
            hint = f"did you mean {near[0]!r}?" if near else f"goals are {', '.join(GOALS)}"
            raise UsageError(f"prune has no argument {name!r}; {hint}")
    if len(goal) + (keep is not None) > 1:
        given = [*(["keep"] if keep is not None else []), *goal]
        raise UsageError(f"{' and '.join(given)} are given; give one of them")
    if evaluate is not None and "max_drop" not in goal:
        raise UsageError("evaluate= is for max_drop=; leave it out, or give that in place of keep")
    if not goal:
        if keep is None and ":" not in str(pattern):
            raise UsageError(
                f"how much is to be kept? give keep=, for example 0.1, or one of {', '.join(GOALS)}"
            )
        return None
    ((name, limit),) = goal.items()
    wanted = Goal(name, limit)
    if ":" in str(pattern):
        raise UsageError(f"pattern {pattern!r} leaves nothing to solve for; leave out {name}=")
    if name == "max_drop" and not callable(evaluate):
        raise UsageError(
            "max_drop= needs evaluate=, a function from the model to its metric on validation data"
        )
    return wanted


def refuse_no_data(data: object) -> None:
    """Refuse what is in none of the usual forms of data.

    Raises:
        UsageError: it cannot be iterated, or is a pair of tensors, which may be meant as one batch.
    """
    if data is None or isinstance(data, (Calibration, Tensor)):
        return
    if not isinstance(data, Iterable) or isinstance(data, (str, bytes, Mapping)):
        raise UsageError(
            f"data is a {type(data).__name__}; give a tensor of inputs, or batches of inputs or of "
            "(inputs, targets), such as a DataLoader"
        )
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(d, Tensor) for d in data):
        raise UsageError("data is a pair of tensors; give one batch of both as [pair]")


def first_sample(data: Data | None, device: torch.device) -> Tensor | None:
    """Return one sample of the inputs, on a device; None where there is none to be had.

    What can be read only once (an iterator) is left alone.
    """
    if isinstance(data, Calibration):
        return data.inputs[0][:1]
    if isinstance(data, Tensor):
        return data[:1].to(device)
    if data is None or isinstance(data, Iterator):
        return None
    batch = next(iter(data), None)
    inputs = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    return inputs[:1].to(device) if isinstance(inputs, Tensor) and inputs.dim() else None


def calibration_of(
    data: Data | None, loss: Loss | None, samples: int, autocast: bool, device: torch.device
) -> Calibration | None:
    """Return data of any of the usual forms as a calibration set on a device.

    Args:
        data: a `Calibration`, inputs [N, ...], or batches of inputs or of (inputs, targets).
        loss: (outputs as float32, targets) → scalar, if there is one.
        samples: at most so many are taken; at least 1.
        autocast: run the model in bf16.
        device: where the model lies.

    Raises:
        UsageError: the batches are neither tensors nor pairs of tensors; or as `Calibration`.
    """
    if data is None or isinstance(data, Calibration):
        return data
    if not isinstance(samples, int) or samples < 1:
        raise UsageError(f"samples is {samples!r}, but must be a whole number, at least 1")
    batches = torch.split(data, 256) if isinstance(data, Tensor) else data
    inputs: list[Tensor] = []
    targets: list[Tensor] = []
    left = samples
    for batch in batches:
        pair = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
        if not 1 <= len(pair) <= 2 or not all(isinstance(part, Tensor) for part in pair):
            kind = ", ".join(type(part).__name__ for part in pair)
            raise UsageError(
                f"a batch of the data is ({kind}); give batches that are a tensor of inputs, or "
                "a pair of inputs and targets. A model that takes more: wrap it in a module that "
                "takes one tensor"
            )
        inputs.append(pair[0][:left].to(device))
        if len(pair) == 2:
            targets.append(pair[1][:left].to(device))
        left -= len(inputs[-1])
        if left <= 0:
            break
    return Calibration(tuple(inputs), tuple(targets), loss, autocast)


def checked_example(example: object) -> Example:
    """Return an example, if it is one.

    Raises:
        UsageError: it is no tensor, and no sequence or mapping of tensors.
    """
    values: Iterable[object] = ()
    if isinstance(example, Tensor):
        return example
    if isinstance(example, Mapping):
        values = example.values()
    elif isinstance(example, Sequence) and not isinstance(example, str):
        values = example
    values = tuple(values)
    if not values or not all(isinstance(value, Tensor) for value in values):
        raise UsageError(
            f"example is {type(example).__name__}; give the inputs of one pass: a tensor, a tuple "
            "of tensors, or a dict of tensors by the names of forward's arguments"
        )
    return example  # type: ignore[return-value]


def figure_of(evaluate: Evaluate, model: nn.Module) -> float:
    """Return what a user's function measures of a model.

    Raises:
        UsageError: it is no finite number.
    """
    value: object = evaluate(model)
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UsageError(f"evaluate gave {value!r}, but must return a finite number")
    return float(value)
