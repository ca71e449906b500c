"""The one tensor that a study takes of a model's outputs, whatever the model gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from secateur.errors import UsageError
from secateur.model.parameters import unwrapped
from secateur.study.task import Task


@dataclass(frozen=True, slots=True, eq=False)
class _Taking:
    """A forward hook. It is copied with its model, and stays out of the model's state."""

    name: str
    take: Callable[[Any], Tensor] | None

    def __call__(self, module: nn.Module, inputs: object, given: object) -> Tensor:
        value = given if self.take is None else self.take(given)
        if isinstance(value, Tensor):
            return value
        what = f"a {type(value).__name__}"
        if self.take is not None:
            raise UsageError(
                f"the output function of task {self.name!r} returns {what}, but loss and metric "
                f"are taken of one tensor; return that (it was given a {type(given).__name__})"
            )
        raise UsageError(
            f"the model of task {self.name!r} gives {what}, but loss and metric are taken of one "
            f"tensor; say which with Task(output=...), for example {_example(value)}"
        )


def tensor_only(model: nn.Module, task: Task) -> nn.Module:
    """Let a model's outputs be the tensor that the task's `output` takes of them; in place.

    Running the model then raises UsageError where that is no tensor.
    """
    unwrapped(model).register_forward_hook(_Taking(task.name, task.output))
    return model


def as_given(model: nn.Module) -> nn.Module:
    """Undo `tensor_only`, on the model or a copy of it."""
    hooks = unwrapped(model)._forward_hooks
    for key in [key for key, hook in hooks.items() if isinstance(hook, _Taking)]:
        del hooks[key]
    return model


def _example(value: object) -> str:
    if isinstance(value, tuple | list):
        return "output=lambda given: given[0]"
    if isinstance(value, dict):
        name = "logits" if "logits" in value else next(iter(value), "logits")
        return f"output=lambda given: given[{name!r}]"
    return "output=lambda given: given.logits"
