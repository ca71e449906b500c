"""What one pass of a model is given, and the tensors in it and in what the model gives.

A tensor is one argument, a tuple or list several, and a mapping arguments by name. Each argument
may be anything that `forward` takes: tensors, nested tuples, lists, mappings and dataclasses of
them, None, numbers, texts. So a model that takes one dict gets `({"x": tensor},)`, and one that
takes one list `([first, second],)`.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from secateur.arguments import Wanted
from secateur.errors import UsageError

Inputs = Tensor | Sequence[Any] | Mapping[str, Any]
"""A tensor, a tuple of positional arguments, or a mapping of keyword arguments of `forward`."""

T = TypeVar("T")

PLAIN = (str, bytes, bool, int, float, complex, type(None), torch.dtype, torch.device)
"""What may stand beside tensors; a model gets it as it is."""


def _is_example(value: object) -> bool:
    """Return whether a value may be the inputs of a pass: tensors are in it, and no arrays."""
    arrays = any(type(leaf).__module__ == "numpy" for _, leaf in leaves(value))
    known = isinstance(value, (tuple, list, Mapping, *PLAIN))
    return not arrays and (not known or any(True for _ in tensors_in(value)))


EXAMPLE = Wanted(
    _is_example,
    "the inputs of one pass: a tensor, a tuple of arguments, or a dict of arguments by the names "
    "of forward's, with torch tensors in them and no arrays",
)


def arguments(inputs: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and keyword arguments of `forward`.

    What is neither tuple, list nor mapping, a named tuple among them, is one argument: a tensor,
    packed sequence or graph.

    Raises:
        UsageError: these are not inputs of a model.
    """
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if type(inputs) in (tuple, list):
        return tuple(cast(Sequence[Any], inputs)), {}
    if isinstance(inputs, PLAIN):
        raise UsageError(
            f"the example is of type {type(inputs).__name__}; give the model's inputs: a "
            "tensor, a tuple of arguments, or a dict of arguments by name"
        )
    return (inputs,), {}


def run(model: nn.Module, inputs: Inputs) -> Any:
    """Return what a model gives for inputs, run as it is.

    Texts by a name that forward does not have, such as the samples' identities, are left out.

    Raises:
        UsageError: these are not inputs of a model.
    """
    positional, by_name = arguments(inputs)
    if beside := [name for name, value in by_name.items() if only_texts(value)]:
        known = inspect.signature(model.forward).parameters
        if not any(one.kind is one.VAR_KEYWORD for one in known.values()):
            by_name = {n: v for n, v in by_name.items() if n in known or n not in beside}
    return model(*positional, **by_name)


def only_texts(value: object) -> bool:
    """Return whether a value is or holds texts or None, and nothing else."""
    return all(isinstance(leaf, (str, bytes, type(None))) for _, leaf in leaves(value))


def leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Yield (where, value) of everything in nested tuples, lists, mappings and dataclasses.

    "Where" joins names and places by dots: "0.x" is the entry "x" of the first argument. What
    holds nothing that can be named, and has no such structure, is yielded itself.
    """
    entries = _entries(value)
    if entries is None:
        yield path, value
        return
    for name, item in entries:
        yield from leaves(item, f"{path}.{name}" if path else str(name))


def tensors_in(value: object) -> Iterator[Tensor]:
    """Yield the tensors in nested tuples, lists, sets, mappings and dataclasses."""
    for _, leaf in leaves(value):
        if isinstance(leaf, Tensor):
            yield leaf


def mapped(
    value: T, change: Callable[[Any], object], also: Callable[[object], bool] | None = None
) -> T:
    """Return the same structure with every tensor changed; it is not changed itself.

    What `also` holds for is changed as if it were a tensor.
    """
    if isinstance(value, Tensor) or (also is not None and also(value)):
        return cast(T, change(value))
    entries = None if isinstance(value, PackedSequence) else _entries(value)
    if entries is None:
        return value
    new = [(name, mapped(item, change, also)) for name, item in entries]
    if isinstance(value, Mapping):
        return cast(T, _like(value, dict(new)))
    if isinstance(value, (tuple, list, set, frozenset)):
        make: Callable[..., Any] = getattr(type(value), "_make", type(value))
        return cast(T, make([item for _, item in new]))
    other = copy.copy(value)
    for name, item in new:
        object.__setattr__(other, name, item)  # frozen ones too
    return other


def _entries(value: object) -> list[tuple[Any, Any]] | None:
    """Return what a structure consists of, by name or place; None if it is not a structure."""
    if isinstance(value, (Tensor, *PLAIN)):
        return None
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, (tuple, list, set, frozenset)):
        return list(zip(getattr(value, "_fields", range(len(value))), value, strict=True))
    if dataclasses.is_dataclass(value) and not isinstance(value, (type, nn.Module)):
        names = [field.name for field in dataclasses.fields(value)]
        return [(name, getattr(value, name)) for name in names if hasattr(value, name)]
    return None


def _like(value: Mapping[Any, Any], items: dict[Any, Any]) -> Mapping[Any, Any]:
    """Return a mapping of the same kind, where it can be filled."""
    if type(value) is dict:
        return items
    try:
        other: Any = copy.copy(value)
        for name, item in items.items():
            other[name] = item
    except Exception:  # one that nothing can be put into
        return items
    return cast(Mapping[Any, Any], other)


def named(inputs: object) -> dict[str, Tensor] | None:
    """Return the tensors of inputs, by argument ("" for a single one); None if they are not inputs.

    What holds no tensor, or beside tensors anything but what `PLAIN` names, is not inputs; nor is a
    packed sequence.
    """
    found = dict(leaves(inputs))
    tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    rest = (value for value in found.values() if not isinstance(value, Tensor))
    packed = isinstance(inputs, PackedSequence)
    return tensors if tensors and not packed and all(isinstance(v, PLAIN) for v in rest) else None


def names_of(example: object) -> dict[str, Tensor]:
    """Return the tensors of an example by the names that the inputs of an ONNX file get.

    Raises:
        UsageError: there is no tensor, or something that no model takes.
    """
    found = named(example)
    if found is None:
        raise UsageError(
            f"example is of type {type(example).__name__}, but must be the module's inputs: a "
            "tensor, or a tuple or dict of arguments with tensors in them"
        )
    own = {} if isinstance(example, Mapping) else {path: _own_name(path) for path in found}
    if len(found) == 1 and not all(own.values()):
        return {"input": next(iter(found.values()))}
    twice = len({*own.values()} - {""}) < sum(map(bool, own.values()))
    names: dict[str, Tensor] = {}
    for path, tensor in found.items():
        name = path if isinstance(example, Mapping) else "" if twice else own[path]
        name = (name or f"input{path}").replace(".", "_")
        while name in names:
            name += "_"
        names[name] = tensor
    return names


def ends_of(outputs: object, inputs: Collection[str]) -> list[str]:
    """Return what the outputs of an ONNX file are called, for each tensor that a model gives.

    By the names in mappings, dataclasses and named tuples, else by number; none as an input is.
    """
    paths = [path for path, leaf in leaves(outputs) if isinstance(leaf, Tensor)]
    names: list[str] = []
    for number, path in enumerate(paths):
        name = _own_name(path).replace(".", "_") or (f"output{number}" if path else "output")
        while name in names or name in inputs:
            name += "_"
        names.append(name)
    return names


def _own_name(path: str) -> str:
    """Return the names in a path without the places before them: "x" of "0.x"; "" has none."""
    return re.sub(r"^(\d+(\.|$))+", "", path)


def each(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    """Return the same inputs with every tensor changed."""
    if isinstance(inputs, Mapping):  # as keyword arguments
        return {name: mapped(value, change) for name, value in inputs.items()}
    return mapped(inputs, change)


def first(inputs: Inputs) -> Tensor:
    """Return the first tensor of inputs, of those with dimensions where there are any.

    Raises:
        UsageError: they are not made of tensors.
    """
    tensors = named(inputs)
    if tensors is None:
        raise UsageError(
            f"inputs are a {type(inputs).__name__}; here they must be a tensor, or a tuple or dict "
            "of tensors, or of what holds tensors"
        )
    every = list(tensors.values())
    return next((tensor for tensor in every if tensor.dim()), every[0])


def size(inputs: Inputs) -> int:
    """Return how many samples a batch has, by its first tensor, [N, ...]."""
    return len(first(inputs))


def head(inputs: Inputs, count: int) -> Inputs:
    """Return the first samples of a batch, with their texts: see `parts`."""
    total = size(inputs) if first(inputs).dim() else 0
    return _piece(inputs, total, slice(count))


def parts(inputs: Inputs, count: int) -> list[Inputs]:
    """Return a batch as several of at most `count` samples.

    A list or tuple of as many texts as there are samples, None among them, is one text a sample;
    anything else that is no tensor belongs to the whole batch.
    """
    total = size(inputs)
    return [_piece(inputs, total, slice(at, at + count)) for at in range(0, total, count)]


def _piece(inputs: Inputs, total: int, taken: slice) -> Inputs:
    def cut(value: Any) -> object:
        return value if isinstance(value, Tensor) and not value.dim() else value[taken]

    texts = partial(_texts, total=total)
    if isinstance(inputs, Mapping):  # as keyword arguments
        return {name: mapped(value, cut, texts) for name, value in inputs.items()}
    return mapped(inputs, cut, texts)


def _texts(value: object, total: int) -> bool:
    """Return whether a value has one text, or None, for each of so many samples."""
    if not isinstance(value, (list, tuple)) or len(value) != total:
        return False
    known = all(isinstance(text, (str, bytes, type(None))) for text in value)
    return known and any(text is not None for text in value)


def by_name(inputs: object) -> bool:
    """Return whether inputs have names: they are, or hold, a mapping."""
    if isinstance(inputs, Mapping):
        return True
    return isinstance(inputs, (tuple, list)) and any(by_name(value) for value in inputs)


def described(inputs: Inputs, *, samples: bool = True) -> str:
    """Return dtypes and shapes for messages, such as "float32 [8, 3, 32, 32]".

    Args:
        inputs: what is described.
        samples: else N stands for their number.
    """
    said = []
    for name, tensor in (named(inputs) or {}).items():
        shape: list[Any] = list(tensor.shape)
        if not samples and shape:
            shape[0] = "N"
        prefix = f"{name}: " if by_name(inputs) or "." in name else ""
        dtype = str(tensor.dtype).removeprefix("torch.")
        said.append(f"{prefix}{dtype} [{', '.join(map(str, shape))}]")
    return ", ".join(said) or type(inputs).__name__


def finite(inputs: Inputs) -> bool:
    """Return whether all floating-point tensors hold neither NaN nor infinity."""
    tensors = [t for t in (named(inputs) or {}).values() if t.is_floating_point()]
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
