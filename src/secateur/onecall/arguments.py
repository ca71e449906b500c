"""What users give to `prune`, looked at before any work is done."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.arguments import plain, unknown
from secateur.errors import UsageError, whole
from secateur.model.inputs import PLAIN, Inputs, each, head, leaves, named, parts, size, tensors_in
from secateur.onecall.solve import GOALS, Goal
from secateur.pruning.calibration import Calibration, Loss
from secateur.pruning.selecting.patterns import Pattern

Data = Calibration | Tensor | Mapping[str, Any] | Iterable[Any]
Evaluate = Callable[[nn.Module], float]


def wanted_goal(
    goal: Mapping[str, float],
    keep: float | None,
    pattern: Pattern,
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
    for name, value in goal.items():
        if name not in GOALS:
            raise unknown("prune", name, [*(set(known) - {"goal"}), *GOALS], value)
    if len(goal) + (keep is not None) > 1:
        given = [*(["keep"] if keep is not None else []), *goal]
        raise UsageError(f"{' and '.join(given)} are given; give one of them")
    if evaluate is not None and "max_drop" not in goal:
        raise UsageError("evaluate= is for max_drop=; leave it out, or give that in place of keep")
    if not goal:
        if keep is None and pattern.ratio is None:
            raise UsageError(
                f"how much is to be kept? give keep=, for example 0.1, or one of {', '.join(GOALS)}"
            )
        return None
    ((name, limit),) = goal.items()
    wanted = Goal(name, limit)
    if pattern.ratio is not None:
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
    if isinstance(data, Mapping) and named(data) is not None:
        return
    if not isinstance(data, Iterable) or isinstance(data, (str, bytes, Mapping)):
        raise UsageError(
            f"data is a {type(data).__name__}; give a tensor of inputs, a dict of tensors, or "
            "batches of inputs or of (inputs, targets), such as a DataLoader"
        )
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(d, Tensor) for d in data):
        raise UsageError("data is a pair of tensors; give one batch of both as [pair]")


def first_sample(data: Data | None, device: torch.device) -> Inputs | None:
    """Return one sample of the inputs, on a device; None where there is none to be had.

    What can be read only once (an iterator) is left alone.
    """
    if isinstance(data, Calibration):
        return data.example
    if data is None or isinstance(data, Iterator):
        return None
    batch = data if isinstance(data, (Tensor, Mapping)) else next(iter(data), None)
    tensors = named(inputs := _inputs_of(batch))
    if tensors is None or not any(tensor.dim() for tensor in tensors.values()):
        return None
    return each(head(inputs, 1), lambda tensor: tensor.to(device))


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
        UsageError: the batches are none; or as `Calibration`.
    """
    if data is None or isinstance(data, Calibration):
        return data
    if not whole(samples) or samples < 1:
        raise UsageError(f"samples is {samples!r}, but must be a whole number, at least 1")
    single = isinstance(data, (Tensor, Mapping))  # and not batches of it
    batches = parts(data, 256) if single else data  # type: ignore[arg-type]
    inputs: list[Inputs] = []
    targets: list[Tensor] = []
    left = samples

    def taken(tensor: Tensor) -> Tensor:
        return (tensor[:left] if tensor.dim() else tensor).to(device)

    for batch in batches:
        x, rest = _inputs_of(batch), _rest_of(batch)
        tensors = named(x)
        if tensors is None or len(rest) > 1 or not all(isinstance(y, Tensor) for y in rest):
            kinds = [type(part).__name__ for part in (x, *rest)]
            raise UsageError(
                f"a batch of the data is ({', '.join(kinds)}); give batches that are inputs, or a "
                "pair of inputs and targets, where inputs are a tensor, a dict of arguments by the "
                "names of forward's, or in a pair a tuple of arguments, and targets a tensor"
            )
        if not any(tensor.dim() for tensor in tensors.values()):
            raise UsageError("a batch of the data has an input without dimensions; give [N, ...]")
        inputs.append(each(x, taken))
        targets += [taken(y) for y in rest]
        left -= size(inputs[-1])
        if left <= 0:
            break
    return Calibration(tuple(inputs), tuple(targets), loss, autocast)


def _inputs_of(batch: Any) -> Any:
    """Return the inputs of a batch, which is them, or begins with them."""
    return batch[0] if isinstance(batch, (tuple, list)) and batch else batch


def _rest_of(batch: Any) -> tuple[Any, ...]:
    return tuple(batch[1:]) if isinstance(batch, (tuple, list)) else ()


def checked_example(example: object) -> Inputs:
    """Return an example, if it is one.

    Raises:
        UsageError: there is no tensor in it, or something that no model takes, as numpy's arrays.
    """
    odd = next((v for _, v in leaves(example) if isinstance(v, np.ndarray)), None)
    known = isinstance(example, (tuple, list, Mapping, *PLAIN))
    if odd is not None or (known and next(tensors_in(example), None) is None):
        what = "holds an array of numpy" if odd is not None else f"is {type(example).__name__}"
        raise UsageError(
            f"example {what}; give the inputs of one pass: a tensor, a tuple of arguments, or a "
            "dict of arguments by the names of forward's, with tensors in them"
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
    value = plain(value)
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UsageError(f"evaluate gave {value!r}, but must return a finite number")
    return float(value)
