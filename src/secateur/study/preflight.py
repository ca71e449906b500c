"""One batch through all of a task, before its study writes anything or trains for hours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from secateur.errors import UsageError
from secateur.measure import evaluate
from secateur.study.outputs import tensor_only
from secateur.study.task import Task
from secateur.training import Data

_METHODS = ("batches_per_epoch", "epoch", "calibration", "evaluation")


def model_of(task: Task) -> nn.Module:
    """Return a fresh network of a task.

    Raises:
        UsageError: the task's `model` does not give a module.
    """
    model = task.model()
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"the model of task {task.name!r} gives a {type(model).__name__}, not a torch module; "
            "let it be a function that builds and returns a fresh nn.Module"
        )
    return model


def tried(task: Task, model: nn.Module, batch_size: int, device: torch.device) -> Task:
    """Return the task with its data loaded, after it has been tried on one batch of each kind.

    Args:
        task: as the user gave it.
        model: of the task; it is left on the device, with its weights as they were.
        batch_size: of training.
        device: where the study is going to run.

    Raises:
        UsageError: data, model, loss and metric do not go together; says which, and the shapes.
    """
    data = task.data(device)
    _check_data(task, data, batch_size)
    model = tensor_only(model.to(device), task).eval()
    who = f"task {task.name!r}"
    inputs, targets = _first(task, data.epoch(batch_size, torch.Generator().manual_seed(0)))
    with torch.no_grad():
        with _said(f"the model of {who} does not take inputs {_kind(inputs)}"):
            outputs = model(inputs)
        with _said(f"the loss of {who} does not take outputs {_kind(outputs)}, {_kind(targets)}"):
            value = task.loss(outputs.float(), targets)
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise UsageError(
            f"the loss of {who} gives {_kind(value)}, not a scalar tensor; let it return the mean "
            "over the batch"
        )
    splits: tuple[Literal["validation", "test"], ...] = ("validation", "test")
    for split in splits:
        batch = _first(task, data.evaluation(split), f"its {split} split")
        with _said(f"the metric of {who} cannot be taken of {split} targets {_kind(batch[1])}"):
            evaluate(model, [batch], task.metric.function)
    return replace(task, data=lambda device: data)


def _check_data(task: Task, data: Data, batch_size: int) -> None:
    lacking = [name for name in _METHODS if not callable(getattr(data, name, None))]
    if lacking:
        raise UsageError(
            f"the data of task {task.name!r} ({type(data).__name__}) has no {', '.join(lacking)}; "
            f"a study asks for {', '.join(_METHODS)} (see secateur.training.Data)"
        )
    if data.batches_per_epoch(batch_size) < 1:
        raise UsageError(
            f"the training data of task {task.name!r} has no batch of {batch_size}; give a "
            "smaller batch_size, or more data"
        )


def _first(task: Task, batches: Iterator[Any], of: str = "an epoch") -> tuple[Tensor, Any]:
    batch = next(iter(batches), None)
    if batch is None:
        raise UsageError(f"the data of task {task.name!r} has nothing in {of}")
    if not isinstance(batch, tuple | list) or len(batch) != 2 or not isinstance(batch[0], Tensor):
        raise UsageError(
            f"the data of task {task.name!r} gives {_kind(batch)} in {of}; a batch is "
            "(inputs, targets), and the inputs are one tensor"
        )
    return batch[0], batch[1]


@contextmanager
def _said(what: str) -> Iterator[None]:
    try:
        yield
    except UsageError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise UsageError(f"{what}: {type(error).__name__}: {error}") from error


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of ({', '.join(map(_kind, value))})"
    return f"a {type(value).__name__}"
