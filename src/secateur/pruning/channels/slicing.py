"""Indices taken out of a module's tensors, and the numbers that torch's layers keep of them."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from secateur.pruning.channels.groups import Groups


@dataclass(frozen=True, slots=True)
class Place:
    """Where a module holds a tensor."""

    module: nn.Module
    leaf: str


def cut_out(model: nn.Module, groups: Groups, units: Set[int]) -> None:
    """Take units out of every parameter and buffer of a model, in place.

    Tensors that are shared stay shared; names, dtypes, devices and `requires_grad` stay; gradients
    are lost. Numbers that torch's layers check or print are set; those that other modules keep of
    sizes are not (see `numbers`).
    """
    places = _places(model)
    changed: dict[int, tuple[nn.Module, dict[str, torch.Size]]] = {}
    for name, all_axes in groups.by_tensor.items():
        axes = [axis for axis in all_axes if not units.isdisjoint(axis.units)]
        if not axes:
            continue
        old = _tensor(model, name)
        new = old.detach()
        for axis in axes:
            kept = [at for at, unit in enumerate(axis.units) if unit not in units]
            new = new.index_select(
                axis.dim, torch.tensor(kept, dtype=torch.long, device=new.device)
            )
        if isinstance(old, nn.Parameter):
            new = nn.Parameter(new, requires_grad=old.requires_grad)
        for place in places[id(old)]:
            setattr(place.module, place.leaf, new)
            _, sizes = changed.setdefault(id(place.module), (place.module, {}))
            sizes[place.leaf] = old.shape
    for module, sizes in changed.values():
        _set_layer(module, sizes)


def _tensor(model: nn.Module, name: str) -> Tensor:
    path, _, leaf = name.rpartition(".")
    tensor: Tensor = getattr(model.get_submodule(path), leaf)
    return tensor


def _places(model: nn.Module) -> dict[int, list[Place]]:
    """Return id of a parameter or buffer → every place that holds it."""
    places: dict[int, list[Place]] = {}
    for module in model.modules():
        for leaf, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                places.setdefault(id(tensor), []).append(Place(module, leaf))
    return places


def _set_layer(module: nn.Module, before: dict[str, torch.Size]) -> None:
    """Set the numbers of torch's layers and of transformers' Conv1D from their tensors."""
    weight = getattr(module, "weight", None)
    for name, value in _layer_numbers(module, weight, before):
        setattr(module, name, value)


def _layer_numbers(
    module: nn.Module, weight: object, before: dict[str, torch.Size]
) -> Iterator[tuple[str, int]]:
    if isinstance(module, _NormBase):
        yield "num_features", len(next(getattr(module, leaf) for leaf in before))
    if not isinstance(weight, Tensor) or "weight" not in before:
        return
    shape, old = weight.shape, before["weight"]
    if isinstance(module, nn.Linear):
        yield from (("in_features", shape[1]), ("out_features", shape[0]))
    elif isinstance(module, _ConvTransposeNd):
        groups = shape[0] if 1 < module.groups == old[0] else module.groups
        yield from (("in_channels", shape[0]), ("out_channels", shape[1] * groups))
        yield "groups", groups
    elif isinstance(module, _ConvNd):
        depthwise = 1 < module.groups == module.in_channels
        groups = shape[0] * module.groups // old[0] if depthwise else module.groups
        yield from (("in_channels", shape[1] * groups), ("out_channels", shape[0]))
        yield "groups", groups
    elif isinstance(module, nn.Embedding):
        yield from (("num_embeddings", shape[0]), ("embedding_dim", shape[1]))
    elif isinstance(module, nn.PReLU):
        yield "num_parameters", shape[0]
    elif hasattr(module, "nx") and hasattr(module, "nf"):
        yield from (("nx", shape[0]), ("nf", shape[1]))
