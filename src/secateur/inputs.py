"""What one pass of a model is given: a tensor, several arguments, or arguments by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import UsageError

Inputs = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
"""A tensor, a tuple of positional arguments, or a mapping of keyword arguments of `forward`."""


def run(model: nn.Module, inputs: Inputs) -> Any:
    """Return what a model gives for inputs, run as it is.

    What is neither tuple, list nor mapping is one argument: a tensor, packed sequence or graph.

    Raises:
        UsageError: the inputs are none.
    """
    given: object = inputs
    if isinstance(given, Mapping):
        return model(**given)
    if type(given) in (tuple, list):
        return model(*inputs)
    if given is None or isinstance(given, (str, bytes, int, float)):
        raise UsageError(
            f"the example is a {type(given).__name__}; give the model's inputs: a tensor, a tuple "
            "of arguments, or a dict of arguments by name"
        )
    return model(inputs)


def named(inputs: object) -> dict[str, Tensor] | None:
    """Return the tensors of inputs, by argument ("" for a single one), or None if it is no such.

    A mapping, tuple or list of anything but tensors is none, and neither is an empty one, nor a
    named tuple such as a packed sequence.
    """
    values: Mapping[str, object] = {}
    if isinstance(inputs, Tensor):
        values = {"": inputs}
    elif isinstance(inputs, Mapping):
        values = dict(inputs)
    elif isinstance(inputs, (tuple, list)) and type(inputs) in (tuple, list):
        values = {str(number): value for number, value in enumerate(inputs)}
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    return tensors if values and len(tensors) == len(values) else None


def each(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    """Return the same inputs with every tensor changed."""
    if isinstance(inputs, Tensor):
        return change(inputs)
    if isinstance(inputs, Mapping):
        return {name: change(value) for name, value in inputs.items()}
    return tuple(change(value) for value in inputs)


def first(inputs: Inputs) -> Tensor:
    """Return the first tensor of inputs.

    Raises:
        UsageError: they are not made of tensors alone.
    """
    tensors = named(inputs)
    if tensors is None:
        raise UsageError(
            f"inputs are a {type(inputs).__name__}; here they must be a tensor, or a tuple or dict "
            "of tensors"
        )
    return next(iter(tensors.values()))


def size(inputs: Inputs) -> int:
    """Return how many samples a batch has, by its first tensor, [N, ...]."""
    return len(first(inputs))


def head(inputs: Inputs, count: int) -> Inputs:
    """Return the first samples of a batch."""
    return each(inputs, lambda tensor: tensor[:count])


def parts(inputs: Inputs, count: int) -> list[Inputs]:
    """Return a batch as several of at most `count` samples."""
    starts = range(0, size(inputs), count)
    return [each(inputs, lambda t, at=at: t[at : at + count]) for at in starts]  # type: ignore[misc]


def described(inputs: Inputs, *, samples: bool = True) -> str:
    """Return dtypes and shapes for messages, such as "float32 [8, 3, 32, 32]".

    Args:
        inputs: what is described.
        samples: else N stands for their number.
    """
    said = []
    for name, tensor in (named(inputs) or {}).items():
        shape: list[Any] = list(tensor.shape)
        if not samples:
            shape[0] = "N"
        prefix = f"{name}: " if isinstance(inputs, Mapping) else ""
        dtype = str(tensor.dtype).removeprefix("torch.")
        said.append(f"{prefix}{dtype} [{', '.join(map(str, shape))}]")
    return ", ".join(said)


def finite(inputs: Inputs) -> bool:
    """Return whether all floating-point tensors hold neither NaN nor infinity."""
    tensors = [t for t in (named(inputs) or {}).values() if t.is_floating_point()]
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
