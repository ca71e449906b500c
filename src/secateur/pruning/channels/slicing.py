"""Indices taken out of a module's tensors, and the sizes that torch's layers hold set to fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from secateur.pruning.channels.groups import Groups
from secateur.pruning.layers import is_transposed


def cut_out(model: nn.Module, groups: Groups, units: Set[int]) -> None:
    """Take units out of every parameter and buffer of a model, in place.

    Tensors that are shared stay shared; names, dtypes, devices and `requires_grad` stay; gradients
    are lost. Sizes that torch's layers check or print are set; those that other modules hold are
    not (see `numbers`).
    """
    places = _places(model)
    changed: dict[nn.Module, dict[str, torch.Size]] = {}
    for name, all_axes in groups.by_tensor.items():
        axes = [axis for axis in all_axes if not units.isdisjoint(axis.units)]
        if not axes:
            continue
        path, _, leaf = name.rpartition(".")
        old: Tensor = getattr(model.get_submodule(path), leaf)
        new = old.detach()
        for axis in axes:
            kept = [at for at, unit in enumerate(axis.units) if unit not in units]
            new = new.index_select(
                axis.dim, torch.tensor(kept, dtype=torch.long, device=new.device)
            )
        if isinstance(old, nn.Parameter):
            new = nn.Parameter(new, requires_grad=old.requires_grad)
        for module, leaf in places[id(old)]:
            setattr(module, leaf, new)
            changed.setdefault(module, {})[leaf] = old.shape
    for module, before in changed.items():
        for attribute, value in _layer_numbers(module, before):
            setattr(module, attribute, value)


def _places(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Return id of a parameter or buffer → every (module, name) that holds it."""
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for leaf, tensor in (*module._parameters.items(), *module._buffers.items()):
            places.setdefault(id(tensor), []).append((module, leaf))
    return places


def _layer_numbers(
    module: nn.Module, before: Mapping[str, torch.Size]
) -> Iterator[tuple[str, int]]:
    """Yield (attribute, size) of torch's layers and transformers' Conv1D, from their tensors.

    Args:
        module: its tensors are cut already.
        before: name → shape before the cut, of the tensors that were cut.
    """
    weight = getattr(module, "weight", None)
    if isinstance(module, _NormBase):
        yield "num_features", len(getattr(module, next(iter(before))))
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
    elif is_transposed(module):
        yield from (("nx", shape[0]), ("nf", shape[1]))
