"""The training examples that cuts are scored and repaired by, the same for an item anywhere."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from secateur.model.inputs import Inputs
from secateur.pruning.calibration import Calibration
from secateur.pruning.criteria import CRITERIA
from secateur.pruning.recovery import batchnorm
from secateur.study.plan import Item, seed_for
from secateur.study.subject import Subject

BATCH = 256


def images(subject: Subject, item: Item, purpose: str) -> Iterator[Inputs]:
    """Return unlabelled training examples, as many as the option of that name says."""
    generator = torch.Generator().manual_seed(seed_for(item, purpose))
    return subject.data.calibration(getattr(subject.spec.options, purpose), BATCH, generator)


def recalibrate(subject: Subject, model: nn.Module, item: Item) -> None:
    """Take the statistics of a network's batch norms anew, in place."""
    seen = images(subject, item, "calibration")
    batchnorm.recalibrate(model, seen, autocast=subject.autocast)


def scores(subject: Subject, model: nn.Module, criterion: str, item: Item) -> dict[str, Tensor]:
    """Return name → what a criterion says of a network's weights."""
    rule = CRITERIA[criterion]
    return rule.scores(
        model,
        subject.prunable.names,
        seed=seed_for(item, criterion),
        calibration=None if rule.needs == "nothing" else _seen(subject, item),
    )


def _seen(subject: Subject, item: Item) -> Calibration:
    """Return the training examples that a criterion looks at."""
    count = subject.spec.options.criterion_images
    generator = torch.Generator().manual_seed(seed_for(item, "criterion"))
    batches = subject.data.epoch(min(count, BATCH), generator)
    taken = list(itertools.islice(batches, -(-count // BATCH)))
    inputs, targets = map(tuple, zip(*taken, strict=True))
    return Calibration(inputs, targets, subject.task.loss, subject.autocast).first(count)
