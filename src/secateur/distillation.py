"""Distillation: train a network towards the outputs of another, beside the targets.

Hinton et al. 2015, arXiv:1503.02531. The teacher's outputs travel with the targets, so that the
training loop, gate phase and fine-tuning need to know nothing of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.arguments import BOOL, FUNCTION, a, between, checked
from secateur.errors import refuse_wrong
from secateur.model.copying import copied
from secateur.model.inputs import Inputs, first, run, tensors_in
from secateur.training import Data

Loss = Callable[[Tensor, Any], Tensor]


@checked()
@dataclass(frozen=True, slots=True)
class SoftTargets:
    """Kullback-Leibler divergence of softened class probabilities; for logits [N, classes, ...].

    Multiplied by the temperature's square, so that its gradient keeps its size (§2 of the paper).
    """

    temperature: float = 4.0

    def __post_init__(self) -> None:
        refuse_wrong(self, ("temperature", lambda v: 0 < v < float("inf"), "positive"))

    def __call__(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        """Return the scalar divergence of outputs from wanted ones, a mean over N."""
        t = self.temperature
        student, teacher = F.log_softmax(outputs / t, 1), F.log_softmax(wanted / t, 1)
        return t * t * F.kl_div(student, teacher, log_target=True, reduction="batchmean")


class Remembered:
    """A teacher's outputs on passes over the data that come again, so that it runs once for all.

    On a CPU alone: a GPU would have to be waited for to know what a batch sums to.
    A batch is known by the state of the generator that its pass was drawn with, its place in the
    pass, and the sum of its inputs, so that data that are shuffled otherwise are only slower.
    """

    def __init__(self, most: int = 2**28) -> None:
        """Remember up to so many bytes; what comes after is computed each time."""
        self._room = most
        self._known: dict[tuple[object, ...], Tensor] = {}

    def outputs(self, key: tuple[object, ...], inputs: Inputs, run: Callable[[], Tensor]) -> Tensor:
        """Return the outputs for a batch: those of before, or what `run` gives."""
        if first(inputs).device.type != "cpu":
            return run()
        # the sum is of a whole batch, augmented: no two are alike
        key = (*key, *map(_sum, tensors_in(inputs)))
        if (known := self._known.get(key)) is not None:
            return known
        outputs = run()
        if (size := outputs.nbytes) <= self._room:
            self._room -= size
            self._known[key] = outputs
        return outputs


@checked(
    loss=FUNCTION,
    teacher=a(nn.Module, "a torch module"),
    imitation=FUNCTION,
    weight=between(0, 1, "in [0, 1]"),
    autocast=BOOL,
)
def distilled(
    data: Data,
    loss: Loss,
    teacher: nn.Module,
    imitation: Loss,
    weight: float,
    *,
    autocast: bool,
    remembered: Remembered | None = None,
) -> tuple[Data, Loss]:
    """Return data and loss that train towards a teacher's outputs, beside the targets.

    Args:
        data: its training batches get the teacher's outputs; all else stays its own.
        loss: (outputs, targets) → scalar.
        teacher: copied as it is now, and run in evaluation mode on every training batch.
        imitation: (outputs, teacher's outputs) → scalar, such as `SoftTargets()`.
        weight: of the imitation, in [0, 1]; the loss has the rest.
        autocast: run the teacher in bf16.
        remembered: outputs of this very teacher, kept for trainings on the same batches.

    Raises:
        UsageError: the weight is out of its range.
    """
    if not weight:
        return data, loss

    def both(outputs: Tensor, targets: tuple[Tensor, Tensor]) -> Tensor:
        label, wanted = targets
        value = weight * imitation(outputs, wanted)
        return value if weight == 1 else value + (1 - weight) * loss(outputs, label)

    return _Taught(data, copied(teacher).eval(), autocast, remembered or Remembered(0)), both


def _sum(values: Tensor) -> float:
    real = torch.view_as_real(values) if values.is_complex() else values
    return float(real.sum(dtype=torch.float64))


@dataclass(frozen=True, eq=False)
class _Taught:
    data: Data
    teacher: nn.Module
    autocast: bool
    remembered: Remembered

    def batches_per_epoch(self, batch_size: int) -> int:
        return self.data.batches_per_epoch(batch_size)

    def epoch(self, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Inputs, Any]]:
        drawn = hashlib.sha256(generator.get_state().numpy().tobytes()).digest()
        for index, (inputs, targets) in enumerate(self.data.epoch(batch_size, generator)):
            key = (drawn, batch_size, index)
            outputs = self.remembered.outputs(key, inputs, partial(self._outputs, inputs))
            yield inputs, (targets, outputs)

    def _outputs(self, inputs: Inputs) -> Tensor:
        kind = first(inputs).device.type
        with torch.no_grad(), torch.autocast(kind, torch.bfloat16, enabled=self.autocast):
            outputs: Tensor = run(self.teacher, inputs)
        return outputs.float()

    def calibration(
        self, count: int, batch_size: int, generator: torch.Generator
    ) -> Iterator[Inputs]:
        return self.data.calibration(count, batch_size, generator)

    def evaluation(
        self, split: Literal["validation", "test"], batch_size: int = 250
    ) -> Iterator[tuple[Inputs, Any]]:
        return self.data.evaluation(split, batch_size)
