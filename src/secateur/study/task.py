"""A task: what is trained, on what, and how well it does. The study knows nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur import data as datasets
from secateur import nets
from secateur.distillation import SoftTargets
from secateur.errors import UsageError
from secateur.training import Data


@dataclass(frozen=True, slots=True)
class Metric:
    """How well a network does, measured per example."""

    name: str
    unit: str
    """As printed behind a number; margins are in this unit."""
    function: Callable[[Tensor, Tensor], Tensor]
    """(outputs float32 [N, ...], targets [N, ...]) → one value per example, float32 [N]."""
    higher_is_better: bool = True


@dataclass(frozen=True)
class Task:
    """A model factory, its data, its loss and its metric.

    `description` goes into the study's spec, and so into its address: put there whatever tells
    this task from another with the same name (JSON values only).
    """

    name: str
    model: Callable[[], nn.Module]
    """Returns a fresh network, its random weights drawn from torch's global generator."""
    data: Callable[[torch.device], Data]
    """Returns the data on a device; called once, when the study starts."""
    loss: Callable[[Tensor, Tensor], Tensor]
    """(outputs float32, targets) → scalar."""
    metric: Metric
    description: Mapping[str, object] = field(default_factory=dict)
    imitation: Callable[[Tensor, Tensor], Tensor] | None = None
    """(outputs float32, the dense network's outputs) → scalar, for distillation; None: the task
    has none. `SoftTargets` is that of classification."""


def percent_correct(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return 100 for each example whose largest output is its class and 0 for the others.

    Args:
        outputs: [N, classes].
        targets: int64 [N].

    Returns:
        float32 [N]; its mean is the accuracy in per cent.
    """
    return (outputs.argmax(1) == targets).float() * 100


TEMPERATURE = 1.0
"""Of distillation in classification."""

ACCURACY = Metric("accuracy", "%", percent_correct)


def classification(
    data: str = "cifar10",
    net: str = "convnet",
    *,
    label_smoothing: float = 0.1,
    data_dir: Path | None = None,
    progress: bool = True,
) -> Task:
    """Return the task of classifying a built-in data set with a built-in net.

    Args:
        data: a name in `secateur.data.DATASETS`.
        net: a name in `secateur.nets.NETS`.
        label_smoothing: of the cross entropy in training, in [0, 1).
        data_dir: where the data's files are already; by default they are fetched and cached.
        progress: show a bar while fetching.

    Raises:
        UsageError: no data set or net of that name (lists the valid ones).
        DataError: the data cannot be had, or is not what it should be.
    """
    nets.find(net)
    if not 0 <= label_smoothing < 1:
        raise UsageError(f"label_smoothing is {label_smoothing!r}, but must be in [0, 1)")
    images = datasets.load(data, data_dir=data_dir, progress=progress)
    classes = len(images.classes)
    return Task(
        name=f"{data}/{net}",
        model=partial(nets.build, net, input_shape=images.shape, classes=classes),
        data=images.to,
        loss=partial(F.cross_entropy, label_smoothing=label_smoothing),
        imitation=SoftTargets(TEMPERATURE),
        metric=ACCURACY,
        description={
            "data": data,
            "net": net,
            "classes": classes,
            "test_images": len(images.test),
            "label_smoothing": label_smoothing,
            "temperature": TEMPERATURE,
        },
    )
