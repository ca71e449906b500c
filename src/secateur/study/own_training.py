"""A task's own training loop, where it has one, in the place of `secateur.train`.

    def train(model, data, recipe, loss, *, seed, around_step=None, after_step=None, extra=(),
              extra_rate=1.0, watch=None): ...

It trains the model in place for `recipe.epochs` epochs, however it likes. The rest is how gates
and held masks get into the loop:

    around_step   phase 2 alone gives it: run forward and backward of step n, counted from 0, in
                  `with around_step(n):`; the cut is made and undone there
    extra         the gates: tensors to be trained beside the model's own parameters, without
                  weight decay, at `extra_rate` times their learning rate
    after_step    fine-tuning gives it: call it after each optimizer step; masks are held there
    watch         call it with an `Epoch` after each epoch, to show progress

A loop without the first three of these cannot learn gates, one without `after_step` cannot
fine-tune, and a study that would need it says so before it starts. The loop may return its
epochs, as `secateur.train` does, or None.

Torch's global generator is seeded with `seed` before the call; take shuffling from a generator
made of it too, so that the same seed gives the same network, and gates and control their
difference by the cut alone. Weights decay in phase 2 as the loop's optimizer has it, the cut ones
too: how to spare those is known for `secateur.train` only.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import TrainingError, UsageError
from secateur.study.task import Task
from secateur.training import Data, Epoch, Recipe

GATES = ("around_step", "extra", "extra_rate")
HOLD = ("after_step",)
WHOLE = "def train(model, data, recipe, loss, *, seed, around_step=None, after_step=None, "
WHOLE += "extra=(), extra_rate=1.0, watch=None)"


def check_training(task: Task, *, gates: bool, finetune: bool) -> None:
    """Refuse a study that the task's own training loop cannot do.

    Args:
        task: with a loop of its own, or without.
        gates: the study learns gates.
        finetune: the study fine-tunes.

    Raises:
        UsageError: the loop takes too little; says what, and which part of the study needs it.
    """
    if task.train is None:
        return
    who = f"the training function of task {task.name!r}"
    if not callable(task.train):
        raise UsageError(f"{who} is {task.train!r}, which cannot be called; write {WHOLE}")
    taken = _taken(task.train)
    try:
        inspect.signature(task.train).bind(0, 0, 0, 0, **dict.fromkeys(taken))
    except TypeError as error:
        raise UsageError(
            f"{who} cannot be called with (model, data, recipe, loss, seed=...): {error}; "
            f"write {WHOLE}"
        ) from None
    if "seed" not in taken:
        raise UsageError(
            f"{who} takes no seed, and without it no study can be repeated; write {WHOLE}"
        )
    if gates and (lacking := [name for name in GATES if name not in taken]):
        raise UsageError(
            f"{who} takes no {', '.join(lacking)}, so gates cannot be learned in it: the criterion "
            "'gate' is impossible; take them (secateur.study.own_training says what they are), or "
            "choose other criteria, for example criteria=('magnitude', 'random')"
        )
    if finetune and "after_step" not in taken:
        raise UsageError(
            f"{who} takes no after_step, so masks cannot be held in it: fine-tuning is impossible; "
            "take it and call it after each optimizer step, or set finetune to 0"
        )


@dataclass(frozen=True, eq=False)
class OwnTraining:
    """Calls a task's own loop as `secateur.train` is called, and looks whether it did its part."""

    task: Task

    def __call__(
        self,
        model: nn.Module,
        data: Data,
        recipe: Recipe,
        loss: Callable[[Tensor, Any], Tensor],
        *,
        seed: int,
        around_step: Callable[[int], AbstractContextManager[object]] | None = None,
        after_step: Callable[[], object] | None = None,
        extra: Sequence[Tensor] = (),
        extra_rate: float = 1.0,
        watch: Callable[[Epoch], object] = lambda epoch: None,
    ) -> tuple[Epoch, ...]:
        """Train as `secateur.train` does, with the task's loop.

        Raises:
            UsageError: the loop left out a step's cut, the gates or the held masks, or returned
                something else than epochs.
            TrainingError: a weight is not finite afterwards; names it.
        """
        assert self.task.train is not None
        cuts, holds, seen = _Count(), _Count(), list[Epoch]()

        @contextmanager
        def counted(step: int) -> Iterator[object]:
            assert around_step is not None
            with around_step(step) as masks:
                yield masks
            cuts.number += 1

        def held() -> None:
            assert after_step is not None
            after_step()
            holds.number += 1

        def watched(epoch: Epoch) -> None:
            self._check_epochs([epoch])
            seen.append(epoch)
            watch(epoch)

        given: dict[str, Any] = {
            "seed": seed,
            "around_step": counted if around_step else None,
            "after_step": held if after_step else None,
            "extra": tuple(extra),
            "extra_rate": extra_rate,
            "watch": watched,
        }
        taken = _taken(self.task.train)
        before = [tensor.detach().clone() for tensor in extra]
        torch.manual_seed(seed)
        result = self.task.train(
            model, data, recipe, loss, **{name: given[name] for name in given if name in taken}
        )
        if around_step and not cuts.number:
            self._refuse("never entered `with around_step(n):`, so nothing was cut")
        if extra and all(map(torch.equal, before, extra)):
            self._refuse("left every tensor of `extra` as it was, so no gate has learned")
        if after_step and not holds.number:
            self._refuse("never called after_step(), so masks were not held")
        for name, tensor in (*model.named_parameters(), *enumerate(extra)):
            if not bool(torch.isfinite(tensor).all()):
                what = f"gate {name}" if isinstance(name, int) else name
                raise TrainingError(
                    f"after training, {what} is not finite (NaN or infinite); lower the learning "
                    "rate, or look for invalid values in the data"
                )
        log = tuple(seen if result is None else self._check_epochs(result))
        for epoch in log[len(seen) :]:
            watch(epoch)
        return log

    def _check_epochs(self, result: Any) -> Sequence[Epoch]:
        if not isinstance(result, Sequence) or not all(isinstance(e, Epoch) for e in result):
            self._refuse(
                f"gives {result!r:.80} where a sequence of secateur.training.Epoch, or None, "
                "belongs"
            )
        return result  # type: ignore[no-any-return]

    def _refuse(self, what: str) -> None:
        raise UsageError(
            f"the training function of task {self.task.name!r} {what}; "
            "secateur.study.own_training says what it is given and must do"
        )


class _Count:
    number = 0


def _taken(function: Callable[..., Any]) -> set[str]:
    """Which of the named arguments a loop takes; `**hooks` takes all."""
    offered = ("seed", *GATES, *HOLD, "watch")
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return set(offered)
    named = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return {p.name for p in parameters if p.kind in named and p.name in offered}
