"""One batch through all of a task, before its study writes anything or trains for hours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from secateur.errors import UsageError
from secateur.measure.accuracy import evaluate
from secateur.model.copying import copied
from secateur.model.inputs import head
from secateur.pruning.selecting.patterns import parse
from secateur.pruning.smaller.reordering import reorder
from secateur.study import artifacts
from secateur.study.failure import said
from secateur.study.subject import Subject
from secateur.study.task import Task
from secateur.training import Data

_METHODS = ("batches_per_epoch", "epoch", "calibration", "evaluation")


def try_out(subject: Subject) -> None:
    """Try a task on one batch of each kind; its network stays as it is.

    Raises:
        UsageError: data, model, loss and metric do not go together; says which, and the shapes.
    """
    task, who = subject.task, f"task {subject.task.name!r}"
    batch_size, data = subject.spec.options.batch_size, subject.data
    _check_data(task, data, batch_size)
    model, generator = copied(subject.model).eval(), torch.Generator().manual_seed(0)
    inputs, targets = _first(task, lambda: data.epoch(batch_size, generator))
    with torch.no_grad():
        with said(f"the model of {who} does not take inputs {_kind(inputs)}"):
            outputs = model(inputs)
        with said(f"the loss of {who} does not take outputs {_kind(outputs)}, {_kind(targets)}"):
            value = task.loss(outputs.float(), targets)
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise UsageError(
            f"the loss of {who} gives {_kind(value)}, not a scalar tensor; let it return the mean "
            "over the batch"
        )
    for split in ("validation", "test"):
        batch = _first(task, partial(data.evaluation, split), f"its {split} split")
        with said(f"the metric of {who} cannot be taken of {split} targets {_kind(batch[1])}"):
            evaluate(model, [batch], task.metric.function)
    if size := parse(subject.spec.options.pattern).together:
        with said(f"the channels of the model of {who} cannot be reordered"):
            reorder(model, head(inputs, 2), size=size)
    if subject.spec.options.int8:
        artifacts.try_out(model, data)


def _check_data(task: Task, data: Data, batch_size: int) -> None:
    lacking = [name for name in _METHODS if not callable(getattr(data, name, None))]
    if lacking:
        raise UsageError(
            f"the data of task {task.name!r} ({type(data).__name__}) has no {', '.join(lacking)}; "
            f"a study asks for {', '.join(_METHODS)} (see secateur.training.Data)"
        )
    with said(f"the data of task {task.name!r} cannot say how many batches an epoch has"):
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
    with said(f"the data of task {task.name!r} cannot give {of}"):
        batch = next(iter(batches()), None)
    if batch is None:
        raise UsageError(f"the data of task {task.name!r} has nothing in {of}")
    if not isinstance(batch, tuple | list) or len(batch) != 2 or not isinstance(batch[0], Tensor):
        raise UsageError(
            f"the data of task {task.name!r} gives {_kind(batch)} in {of}; a batch is "
            "(inputs, targets), and the inputs are one tensor"
        )
    return batch[0], batch[1]


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of ({', '.join(map(_kind, value))})"
    return f"a {type(value).__name__}"
