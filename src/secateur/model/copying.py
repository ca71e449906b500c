"""One way to copy a model: what its own code keeps of the last pass does not stand in the way."""

from __future__ import annotations

import copy
import types
import weakref
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Any, TypeVar

from torch import Tensor, nn

from secateur.errors import UsageError

Module = TypeVar("Module", bound=nn.Module)

_ATOMS = (
    str,
    bytes,
    int,
    float,
    complex,
    type(None),
    type,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.ModuleType,
)
"""What a deep copy shares, or has nothing of ours in it."""


def copied(model: Module, *, otherwise: str = "") -> Module:
    """Return a deep copy of a model; the model itself is not changed.

    Tensors that are kept from an earlier pass with their gradient's graph, in attributes, lists,
    settings or buffers, are copied without the graph, which torch's own copy refuses. Weak
    references to parts of the model refer to the copy's parts. What modules keep in evaluation of
    what they made of their weights is made anew, because a copy's weights are there to be changed.

    Args:
        model: any module.
        otherwise: what else the caller can do about one that cannot be copied.

    Raises:
        UsageError: the model holds something that cannot be copied, such as a lock, an open file
            or a generator; names the attribute.
    """
    memo: dict[int, Any] = {}
    weak = []
    kept = []  # alive, so that no id is used twice
    for holder, key, value in _held(model):
        kept.append(value)
        if isinstance(value, Tensor):
            if not value.is_leaf:
                memo[id(value)] = value.detach().clone()
            elif value.grad is not None and not value.grad.is_leaf and type(value) is Tensor:
                memo[id(value)] = twin = value.detach().clone().requires_grad_()
                twin.grad = value.grad.detach().clone()
        elif _weak(value):
            memo[id(value)] = value
            weak.append((holder, key, value))
    plain = dict(memo)
    try:
        again = copy.deepcopy(model, memo)
    except Exception as error:  # whatever the things that a model holds raise
        raise UsageError(
            f"{type(model).__name__} cannot be copied: {_culprit(model, plain)} ({_first(error)}); "
            "set it to None first and back afterwards, or give its class a __deepcopy__"
            f"{otherwise and f', or {otherwise}'}"
        ) from error
    for holder, key, reference in weak:
        ours, target = memo.get(id(holder)), memo.get(id(_referent(reference)))
        if ours is not None and target is not None:
            make = weakref.ref if isinstance(reference, weakref.ref) else weakref.proxy
            _put(ours, key, make(target))
    _forget(again)
    return again


def _forget(model: nn.Module) -> None:
    """Let modules drop what they made of their weights: they do so where their mode is set."""
    modes = [(module, module.training) for module in model.modules()]
    for module, training in modes:
        if type(module).train is not nn.Module.train:
            module.train(training)
    for module, training in modes:
        module.training = training


def _held(model: nn.Module) -> Iterator[tuple[Any, Any, Any]]:
    """Yield (holder, attribute or key, value) of everything that can be reached from a model."""
    seen = {id(model)}
    stack: list[Any] = [model]
    while stack:
        holder = stack.pop()
        for key, value in _contents(holder):
            if _weak(value):
                yield holder, key, value
            elif id(value) not in seen and not isinstance(value, _ATOMS):
                seen.add(id(value))
                yield holder, key, value
                stack.append(value)


def _weak(value: object) -> bool:
    # not isinstance, which asks what a proxy stands for
    return issubclass(type(value), (weakref.ref, *weakref.ProxyTypes))


def _referent(value: Any) -> object:
    """Return what a weak reference or proxy stands for, or None where that is gone."""
    try:
        return value() if isinstance(value, weakref.ref) else value.__repr__.__self__
    except ReferenceError:
        return None


def _contents(holder: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(holder, dict):
        yield from holder.items()
    elif isinstance(holder, (list, tuple)):
        yield from enumerate(holder)
    elif isinstance(holder, AbstractSet):
        yield from ((None, item) for item in holder)
    elif isinstance(holder, partial):
        yield from (("func", holder.func), ("args", holder.args), ("keywords", holder.keywords))
    elif isinstance(holder, types.MethodType):
        yield "__self__", holder.__self__
    elif hasattr(type(holder), "__iter__") and hasattr(type(holder), "maxlen"):  # a deque
        yield from enumerate(holder)
    own = getattr(holder, "__dict__", None)
    if isinstance(own, Mapping):
        yield from own.items()
    for kind in type(holder).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if (value := getattr(holder, name, None)) is not None:
                yield name, value


def _put(holder: Any, key: Any, value: object) -> None:
    if isinstance(holder, (dict, list)):
        holder[key] = value
    elif isinstance(key, str):
        object.__setattr__(holder, key, value)


def _culprit(model: nn.Module, memo: Mapping[int, Any]) -> str:
    """Say which attribute cannot be copied."""
    for path, module in model.named_modules():
        own = {n: v for n, v in vars(module).items() if n != "_modules"}
        own |= {**own.pop("_parameters", {}), **own.pop("_buffers", {})}
        for name, value in own.items():
            try:
                copy.deepcopy(value, dict(memo))
            except Exception:
                where = f"{path}.{name}" if path else name
                return (
                    f"its attribute {where!r} is or holds what cannot be ({type(value).__name__})"
                )
    return "something in it cannot be"


def _first(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
