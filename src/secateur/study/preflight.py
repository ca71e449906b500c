"""One batch through all of a task, before its study writes anything or trains for hours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from secateur.errors import SecateurError, UsageError
from secateur.measure.accuracy import evaluate
from secateur.study.failure import told
from secateur.study.outputs import tensor_only
from secateur.study.task import Task
from secateur.training import Data

_METHODS = ("batches_per_epoch", "epoch", "calibration", "evaluation")


def model_of(task: Task) -> nn.Module:
    """Return a fresh network of a task.

    Raises:
        UsageError: the task's `model` does not give a module, or raises an exception.
    """
    with _said(f"the model of task {task.name!r} cannot be built"):
        model = task.model()
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"the model of task {task.name!r} gives a {type(model).__name__}, not a torch module; "
            "let it be a function that builds and returns a fresh nn.Module"
        )
    return model


def data_of(task: Task, device: torch.device) -> Data:
    """Return the data of a task on a device.

    Raises:
        UsageError: the task's `data` raises an exception that is not secateur's own.
    """
    with _said(f"the data of task {task.name!r} cannot be loaded"):
        return task.data(device)


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
    data = data_of(task, device)
    _check_data(task, data, batch_size)
    model = tensor_only(model.to(device), task).eval()
    who = f"task {task.name!r}"
    generator = torch.Generator().manual_seed(0)
    inputs, targets = _first(task, lambda: data.epoch(batch_size, generator))
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
        batch = _first(task, partial(data.evaluation, split), f"its {split} split")
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
    with _said(f"the data of task {task.name!r} cannot say how many batches an epoch has"):
        batches = data.batches_per_epoch(batch_size)
        enough = batches >= 1
    if not enough:
        raise UsageError(
            f"the training data of task {task.name!r} has no batch of {batch_size}; give a "
            "smaller batch_size, or more data"
        )


def _first(
    task: Task, batches: Callable[[], Iterator[Any]], of: str = "an epoch"
) -> tuple[Tensor, Any]:
    with _said(f"the data of task {task.name!r} cannot give {of}"):
        batch = next(iter(batches()), None)
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
    """Turn an exception of the user's own code into one clear error."""
    try:
        yield
    except SecateurError:
        raise
    except Exception as error:
        raise UsageError(f"{what}: {told(error)}") from error


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of ({', '.join(map(_kind, value))})"
    return f"a {type(value).__name__}"
