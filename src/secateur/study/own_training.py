"""A task's own training loop, where it has one, in the place of `secateur.train`.

    def train(model, data, recipe, loss, *, seed, pruning, watch=None):
        optimizer = torch.optim.AdamW(model.parameters(), recipe.rate)
        ...
            with pruning(optimizer):
                loss(model(inputs), targets).backward()
            optimizer.step()

It trains the model in place for `recipe.epochs` epochs, however it likes. `pruning` is all that a
study asks of it: open what it gives, for the loop's optimizer, around forward and backward of
every step. There gates learn through the cut, and masks are held; in plain training it does
nothing. The optimizer is the one whose `step()` moves the weights; a loop may make a new one, for
every epoch say. A loop that does not take `pruning` can neither learn gates nor fine-tune, and a
study that would need that says so before it starts.

`watch`, where the loop takes it, is called with an `Epoch` after each epoch, to show progress. The
loop may return its epochs, as `secateur.train` does, or None.

Torch's global generator is seeded with `seed` before the call; take shuffling from a generator
made of it too, so that the same seed gives the same network, and gates and control their
difference by the cut alone. Beside SGD and AdamW the weights that a step cuts do not decay in it;
beside other optimizers they do.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur.errors import UsageError
from secateur.study.task import Task
from secateur.training import Data, Epoch, Pruning, Recipe, unpruned

OFFERED = ("seed", "pruning", "watch")
WHOLE = "def train(model, data, recipe, loss, *, seed, pruning, watch=None)"


def check_training(task: Task, *, prunes: str) -> None:
    """Refuse a study that the task's own training loop cannot do.

    Args:
        task: with a loop of its own, or without.
        prunes: what of the study trains a network that is cut, for the error; empty if nothing.

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
    if prunes and "pruning" not in taken:
        raise UsageError(
            f"{who} takes no `pruning`, which {prunes} needs: open `with pruning(optimizer):` "
            f"around forward and backward; write {WHOLE}. Or choose other criteria than 'gate', "
            "for example criteria=('magnitude', 'random'), and finetune=0"
        )


def train_own(
    task: Task,
    model: nn.Module,
    data: Data,
    recipe: Recipe,
    loss: Callable[[Tensor, Any], Tensor],
    *,
    seed: int,
    pruning: Pruning,
    watch: Callable[[Epoch], object],
) -> tuple[Epoch, ...]:
    """Train as `secateur.train` does, with the loop of a task that has one.

    Raises:
        UsageError: the loop never opened `pruning`, or returned something else than epochs.
    """
    assert task.train is not None
    opened, seen = [0], list[Epoch]()

    def refuse(what: str) -> NoReturn:
        raise UsageError(
            f"the training function of task {task.name!r} {what}; "
            "secateur.study.own_training says what it is given and must do"
        )

    def epochs(result: Any) -> Sequence[Epoch]:
        if isinstance(result, Sequence) and all(isinstance(each, Epoch) for each in result):
            return result
        refuse(
            f"gives {result!r:.80} where a sequence of secateur.training.Epoch, or None, belongs"
        )

    def counted(optimizer: Optimizer) -> AbstractContextManager[object]:
        opened[0] += 1
        return pruning(optimizer)

    def watched(epoch: Epoch) -> None:
        seen.extend(epochs([epoch]))
        watch(epoch)

    given = {"seed": seed, "pruning": counted, "watch": watched}
    taken = _taken(task.train)
    torch.manual_seed(seed)
    result = task.train(
        model, data, recipe, loss, **{name: given[name] for name in given if name in taken}
    )
    if pruning is not unpruned and not opened[0]:
        refuse("never opened `with pruning(optimizer):`, so nothing was cut or held")
    log = tuple(seen if result is None else epochs(result))
    for epoch in log[len(seen) :]:
        watch(epoch)
    return log


def _taken(function: Callable[..., Any]) -> set[str]:
    """Return which of the named arguments a loop takes; `**hooks` takes all."""
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return set(OFFERED)
    named = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return {p.name for p in parameters if p.kind in named and p.name in OFFERED}
