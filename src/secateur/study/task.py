"""A task: what is trained, on what, and how well it does. The study knows nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur import data as datasets
from secateur import nets
from secateur.arguments import BOOL, FUNCTION, PATH, TEXT, Wanted, a, checked
from secateur.data.images import ImageData
from secateur.distillation import SoftTargets
from secateur.study.metrics import ACCURACY, Metric, percent_correct
from secateur.training import Data

__all__ = ["ACCURACY", "LABEL_SMOOTHING", "Metric", "Task", "classification", "percent_correct"]


@checked(
    name=TEXT,
    model=Wanted(
        lambda v: callable(v) and not isinstance(v, nn.Module),
        "a function that builds and returns a fresh network",
    ),
    data=FUNCTION,
    loss=FUNCTION,
    metric=a(Metric, "a Metric"),
    description=a(Mapping, "a dict of what JSON has words for"),
    imitation=FUNCTION,
    output=FUNCTION,
    train=FUNCTION,
    smaller=FUNCTION,
)
@dataclass(frozen=True)
class Task:
    """A model factory, its data, its loss and its metric.

    `description` goes into the study's spec, and so into its address: put there whatever tells
    this task from another with the same name (JSON values only). Nothing else of the task does:
    after a change of model or data that neither name nor description tells, a study goes on with
    what it had. (`load_task` describes a task that does not describe itself by its file's hash.)
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
    """(outputs float32, the start's outputs) → scalar, for distillation; None: the task
    has none. `SoftTargets` is that of classification."""
    output: Callable[[Any], Tensor] | None = None
    """Takes the tensor that loss and metric are of out of what the model gives, where that is a
    tuple, a dict or a dataclass: `lambda given: given.logits`."""
    train: Callable[..., Any] | None = None
    """Your own training loop, in place of `secateur.train`, in every phase of a study; called as
    that is, `train(model, data, recipe, loss, seed=..., ...)`. `secateur.study.own_training` says
    which of the other arguments it may leave out, and what is impossible then."""
    smaller: Callable[[float], nn.Module] | None = None
    """Returns a fresh network like `model`'s with its channels times a width in (0, 1], for the
    smaller dense networks that a study compares with; None: the task has none."""
    reference: Mapping[str, Any] | None = field(default=None, init=False, compare=False, repr=False)
    """How another process makes the same task; None where it cannot. `classification` and
    `load_task` say it; what `dataclasses.replace` changes has none."""


TEMPERATURE = 1.0
"""Of distillation in classification."""
LABEL_SMOOTHING = 0.1


@checked(
    label_smoothing=Wanted(lambda v: not isinstance(v, bool) and 0 <= v < 1, "in [0, 1)"),
    data_dir=PATH,
    progress=BOOL,
)
def classification(
    data: str = "cifar10",
    net: str = "dctnet",
    *,
    label_smoothing: float = LABEL_SMOOTHING,
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
    images = datasets.load(data, data_dir=data_dir, progress=progress)
    task = classified(images, data, net, label_smoothing=label_smoothing)
    where = None if data_dir is None else str(Path(data_dir).resolve())
    made = {"data": data, "net": net, "label_smoothing": label_smoothing, "data_dir": where}
    object.__setattr__(task, "reference", made)
    return task


def classified(images: ImageData, data: str, net: str, *, label_smoothing: float) -> Task:
    """Return the task of `classification` on images that are there already."""
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
        smaller=lambda width: nets.build(
            net, input_shape=images.shape, classes=classes, width=width
        ),
    )
