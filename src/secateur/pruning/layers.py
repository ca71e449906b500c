"""Layers that multiply what they read by one matrix: linear ones and convolutions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeGuard, cast

from torch import Tensor, nn

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


def is_layer(module: object) -> TypeGuard[nn.Module]:
    """Return whether a module is a linear layer, a convolution, or transformers' Conv1D."""
    return isinstance(module, nn.Linear | Convolution) or is_transposed(module)


def is_transposed(module: object) -> bool:
    """Return whether a module is transformers' Conv1D, a linear layer of weight [inputs, outputs].

    It is recognised without an import.
    """
    if not isinstance(module, nn.Module) or not hasattr(module, "nf"):
        return False
    return any(kind.__name__ == "Conv1D" for kind in type(module).__mro__)


def by_outputs(layer: nn.Module, values: Tensor) -> Tensor:
    """Return a view of a tensor shaped like a layer's weight, with the outputs first.

    Called again, it turns that back.
    """
    return values.T if is_transposed(layer) else values


def weight_of(layer: nn.Module) -> Tensor:
    """Return a view of a layer's weight, [outputs, inputs / groups, ...kernel]."""
    return by_outputs(layer, cast(Tensor, layer.weight))


def weight_name(path: str) -> str:
    """Return the name of a layer's weight; the layer may be the whole model, at path ""."""
    return f"{path}.weight" if path else "weight"


def groups_of(layer: nn.Module) -> int:
    """Return how many groups of inputs have outputs of their own."""
    return layer.groups if isinstance(layer, Convolution) else 1


def read_by(inputs: Sequence[Tensor], by_name: Mapping[str, Tensor]) -> Tensor:
    """Return what a layer reads, by a hook's positional and named arguments."""
    return inputs[0] if inputs else next(iter(by_name.values()))
