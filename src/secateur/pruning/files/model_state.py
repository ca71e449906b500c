"""A model's tensors out of it and into it: tied ones once, gates only where they are wanted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from secateur.arguments import shown
from secateur.errors import UsageError
from secateur.model.parameters import unwrapped
from secateur.pruning.files.description import Stored
from secateur.pruning.files.packed import DIMENSIONS, DTYPES
from secateur.pruning.gates.gates import SUFFIX, Gates
from secateur.pruning.unprunable import not_plain, refuse_sharded

State = Mapping[str, Tensor]

_EXACT: dict[torch.dtype, tuple[torch.dtype, ...]] = {
    torch.float16: (torch.float32, torch.float64),
    torch.bfloat16: (torch.float32, torch.float64),
    torch.float32: (torch.float64,),
}
"""Which dtypes hold every value of another."""


def tensors_of(
    model: nn.Module | State, *, gates: bool = False
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return every parameter and buffer of a state dict, and which of them are one tensor.

    Args:
        model: a module, looked at through its wrappers, or its state dict.
        gates: whether gates (`conv.weight_gate` beside `conv.weight`) are among them.

    Returns:
        name → tensor, not copied, in the order of the state dict; and name → the first name of
        the same tensor, for those that appear again (they are in the first mapping too).

    Raises:
        UsageError: something is no tensor, or one that cannot be stored; names the first one. Or
            the model is sharded.
    """
    if isinstance(model, nn.Module):
        refuse_sharded(model)
    state = unwrapped(model).state_dict() if isinstance(model, nn.Module) else model
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise UsageError(
            f"model is {shown(model)}; give a module, or its state dict: name → tensor"
        )
    found: dict[str, Tensor] = {}
    ties: dict[str, str] = {}
    first: dict[object, str] = {}
    for name, tensor in state.items():
        if not gates and is_gate(name, state):
            continue
        _refuse(name, tensor)
        found[name] = tensor
        if tensor.numel():
            place = first.setdefault(_place(tensor), name)
            if place != name:
                ties[name] = place
    return found, ties


def is_gate(name: str, names: Iterable[str]) -> bool:
    """Return whether a name is that of a gate, and its weight is among the names."""
    return name.endswith(SUFFIX) and name.removesuffix(SUFFIX) in names


def misfit(model: nn.Module, stored: Sequence[Stored]) -> str | None:
    """Say what first keeps stored tensors from being a module's, or None where they fit.

    Gates that the module lacks are no misfit: they can be attached.
    """
    wanted, _ = tensors_of(model, gates=True)
    there = {tensor.name: tensor for tensor in stored}
    for name, tensor in wanted.items():
        if name not in there:
            hint = (
                "; take the model's gates away with Gates.of(model).remove()"
                if is_gate(name, wanted)
                else ""
            )
            return f"{name!r} is missing{hint}"
        own = there[name]
        if own.shape != tensor.shape:
            return f"{name!r} has shape {own.shape}, but in the model {tuple(tensor.shape)}"
        if own.dtype != tensor.dtype and tensor.dtype not in _EXACT.get(own.dtype, ()):
            return (
                f"{name!r} is {own.dtype}, which the model's {tensor.dtype} cannot hold; "
                f"convert the model with model.to({own.dtype})"
            )
    parameters = dict(unwrapped(model).named_parameters(remove_duplicate=False))
    for own in stored:
        if own.name in wanted:
            continue
        weight = parameters.get(own.name.removesuffix(SUFFIX)) if is_gate(own.name, there) else None
        if weight is None or own.dtype != torch.float32 or own.shape != weight.shape:
            return f"{own.name!r} is of no parameter or buffer of the model"
    return None


def clash(model: nn.Module, state: State) -> str | None:
    """Say which names are one tensor in a module, but different ones in a state, or None."""
    _, ties = tensors_of(model)
    for name, first in ties.items():
        one, other = state[name], state[first]
        if one is not other and not (one.dtype == other.dtype and _same_bits(one, other)):
            return f"{name!r} and {first!r} differ, but are one tensor in the model"
    return None


def fill(model: nn.Module, state: State, ties: Mapping[str, str]) -> None:
    """Put a state that fits into a module, and tie again what was one tensor.

    Args:
        model: changed in place; gains the gates that the state has and it lacks.
        state: name → tensor; see `misfit` and `clash`.
        ties: name → the first name of the same tensor.
    """
    inner = unwrapped(model)
    names = set(inner.state_dict())
    if lacking := [n.removesuffix(SUFFIX) for n in state if n not in names and is_gate(n, state)]:
        Gates.attach(inner, lacking)
    inner.load_state_dict(state, strict=True)
    _, tied = tensors_of(inner, gates=True)
    for name, first in ties.items():
        if tied.get(name, name) != tied.get(first, first):
            _tie(inner, name, first)


def _tie(model: nn.Module, name: str, first: str) -> None:
    owner, leaf = _owner(model, name)
    tensor = getattr(*_owner(model, first))
    if isinstance(tensor, nn.Parameter) == (leaf in dict(owner.named_parameters(recurse=False))):
        setattr(owner, leaf, tensor)


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return model.get_submodule(path), leaf


def _refuse(name: str, tensor: object) -> None:
    """Refuse what cannot be stored."""
    if not isinstance(tensor, Tensor):
        reason = f"is no tensor but {type(tensor).__name__}; leave it out of the state dict"
    elif nn.parameter.is_lazy(tensor):
        reason = "is not initialised yet; run the model once"
    elif tensor.is_meta:
        reason = (
            "is on the meta device and has no values; build the model with values, or give it "
            "memory with model.to_empty(device='cpu')"
        )
    elif tensor.is_quantized or tensor.dtype not in DTYPES.values():
        reason = f"is {tensor.dtype}; give a model that is not quantised"
    elif tensor.layout != torch.strided:
        reason = f"has the layout {tensor.layout}; make it dense with to_dense()"
    elif (fault := not_plain(tensor)) is not None:
        reason = fault
    elif tensor.dim() > DIMENSIONS:
        reason = f"has {tensor.dim()} dimensions; at most {DIMENSIONS} can be stored"
    elif name == "__metadata__":
        reason = "has a name that the file format keeps for itself; rename it"
    else:
        return
    raise UsageError(f"{name!r} {reason}")


def _place(tensor: Tensor) -> object:
    """Return what is equal only for two views of the same memory in the same order."""
    start = tensor.untyped_storage().data_ptr()
    view = (tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
    return (tensor.device, start, *view, tensor.is_conj(), tensor.is_neg())


def _same_bits(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))
