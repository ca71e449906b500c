"""How long a study will take, from a few timed steps; an estimate, and called one."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from secateur.model.copying import copied
from secateur.model.inputs import Inputs, head, run
from secateur.study.executors.turn import reproducible
from secateur.study.plan import START, Stage, epochs, items
from secateur.study.subject import Subject

TRIAL = 0.15
"""What a trial costs, in epochs: evaluation, and recalibration. Of CIFAR-10, as a guess of others.
"""
TEACHER = 1 / 3
"""What a teacher's pass costs, in steps."""
_EXAMPLES, _STEPS = 128, 3


def expected(subject: Subject, workers: int) -> float:
    """Return about how many seconds a study takes.

    Examples are timed as torch trains them, in one thread: a task's own loop may differ.

    Args:
        subject: of the study; its data is loaded, and some examples are trained on by a copy.
        workers: how many processes share it.
    """
    options, seeds, data = subject.spec.options, subject.spec.seeds, subject.data
    generator = torch.Generator().manual_seed(0)
    inputs, targets = next(iter(data.epoch(options.batch_size, generator)))
    batch = len(targets)
    few = min(batch, _EXAMPLES)
    with reproducible(subject.device):
        step = _step(subject, copied(subject.model), head(inputs, few), targets[:few])
    epoch = step / few * batch * data.batches_per_epoch(options.batch_size)
    planned = list(items(options, seeds, matched=True))  # if it is measured
    stages = [item for item in planned if isinstance(item, Stage)]
    total = sum(
        epochs(options, stage) * (1 + TEACHER * (stage.name != START and options.teach > 0))
        for stage in stages
    )
    return epoch * (total + TRIAL * (len(planned) - len(stages))) / workers


def _step(subject: Subject, model: nn.Module, inputs: Inputs, targets: Any) -> float:
    """Return the seconds of a forward and backward: the least of some, after one that warms up."""
    model.train()
    spent = []
    for _ in range(_STEPS + 1):
        begun = time.perf_counter()
        with torch.autocast(subject.device.type, torch.bfloat16, enabled=subject.autocast):
            outputs = run(model, inputs)
        value = subject.task.loss(outputs.float(), targets)
        value.backward()  # type: ignore[no-untyped-call]
        spent.append(time.perf_counter() - begun)
    return min(spent[1:])
