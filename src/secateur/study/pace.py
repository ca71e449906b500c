"""How long a study will take, from a few timed steps; an estimate, and called one."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from secateur.model.copying import copied
from secateur.model.inputs import Inputs, head, run
from secateur.study.executors.turn import reproducible
from secateur.study.plan import AS_SMALL, GATE, SMALLER, START, UNCUT, Stage, down_to, epochs, items
from secateur.study.subject import Subject

TRIAL = 0.17
"""What a trial costs, in epochs: evaluation, and recalibration. Of CIFAR-10, as a guess of others.
"""
LEARNING = 0.3
"""What a step through a cut costs more than a plain one, in steps."""
MATCHING, NETWORK, PEERS = 60.0, 8.0, 40.0
"""Seconds on two cores to find how wide a dense network may be, to compile and measure one network,
and to do so with the peers; of CIFAR-10 and `dctnet`, as a guess of others."""
_EXAMPLES, _STEPS = 128, 3


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds that a network takes for a batch."""

    step: float
    """To train on it."""
    forward: float
    """As a teacher."""


def expected(subject: Subject, workers: int, *, measured: bool = False) -> float:
    """Return about how many seconds a study takes.

    Examples are timed as torch trains them, in one thread: a task's own loop may differ.

    Args:
        subject: of the study; its data is loaded, and some examples are trained on by a copy.
        workers: how many processes share it.
        measured: networks are measured afterwards, and one that is as fast as a cut one is trained
            with each seed. How wide that will be is not known, so it counts as the uncut network.
    """
    options, seeds, data = subject.spec.options, subject.spec.seeds, subject.data
    passing = iter(data.epoch(options.batch_size, torch.Generator().manual_seed(0)))
    inputs, targets = next(passing)
    begun = time.perf_counter()
    next(passing, None)  # the first one may have drawn a whole pass
    reading = time.perf_counter() - begun
    few = min(len(targets), _EXAMPLES)
    part = head(inputs, few), targets[:few]
    planned = list(items(options, seeds, matched=measured))
    stages = [item for item in planned if isinstance(item, Stage)]
    with reproducible(subject.device):
        whole = narrow = _cost(subject, copied(subject.model), *part)
        if options.smaller:  # its weights grow with about the square of its width
            narrow = _cost(subject, subject.narrow(options.smaller**0.5), *part)
    steps = sum(_steps(subject, stage, whole, narrow) for stage in stages)
    steps += TRIAL * whole.step * (len(planned) - len(stages))
    reads = reading * sum(epochs(options, stage) for stage in stages)
    seconds = steps * len(targets) / few + reads
    seconds *= data.batches_per_epoch(options.batch_size) / workers
    if measured:
        levels = len(options.cuts(*options.claim)) + 1
        seconds += NETWORK * levels + PEERS + MATCHING * bool(options.smaller)
    return seconds


def _steps(subject: Subject, stage: Stage, whole: Cost, narrow: Cost) -> float:
    """Return how many seconds a stage takes for one batch of each of its epochs."""
    options = subject.spec.options
    trained = epochs(options, stage)
    step = (narrow if stage.name == AS_SMALL else whole).step
    if stage.name == GATE:
        step *= 1 + LEARNING * (options.learn if options.down else 1.0)
    taught = 0.0
    if options.teach:  # on a ladder all arms share what the first one asks the teacher
        shared = options.down and stage.name not in (UNCUT, *SMALLER)
        taught = 0.0 if shared or stage.name == START else trained
    if stage.name in SMALLER:
        taught = down_to(options, stage.keep) if options.teach else 0.0
    return trained * step + taught * whole.forward


def _cost(subject: Subject, model: nn.Module, inputs: Inputs, targets: Any) -> Cost:
    """Return the least time of some steps and passes, after one of each that warms up."""
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, 0.0, 0.9, nesterov=True, weight_decay=1e-4)
    steps, passes = [], []
    for _ in range(_STEPS + 1):
        begun = time.perf_counter()
        value = subject.task.loss(_outputs(subject, model, inputs).float(), targets)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        steps.append(time.perf_counter() - begun)
    with torch.no_grad():
        for _ in range(_STEPS + 1):
            begun = time.perf_counter()
            _outputs(subject, model, inputs)
            passes.append(time.perf_counter() - begun)
    return Cost(min(steps[1:]), min(passes[1:]))


def _outputs(subject: Subject, model: nn.Module, inputs: Inputs) -> Any:
    with torch.autocast(subject.device.type, torch.bfloat16, enabled=subject.autocast):
        return run(model, inputs)
