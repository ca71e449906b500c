"""Sizes that a module's own code holds as numbers, which change when channels are cut.

Code is not read, so which number is which size is a guess. Numbers are set in one of several ways,
and the caller runs the model: after a wrong guess it fails, or gives something else.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, MutableMapping, MutableSequence, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from secateur.pruning.channels.groups import Size
from secateur.pruning.channels.tracing import has_fixed_sizes
from secateur.pruning.layers import is_transposed

NOT_SIZES = re.compile(
    r"^(attention_)?head_(dim|size)$|dim_head|kernel|stride|padding|window|patch|bucket|vocab"
    r"|position|length|layer|depth|image"
)
"""Names of numbers that do not count heads or channels."""

LIKELY = ("head", "inner")
"""Parts of names that are preferred where several numbers fit."""

MAX_DEPTH = 6
"""How many levels of nested containers are searched."""

_OF_EVERY_MODULE = frozenset(vars(nn.Module())) | {"_forward_hooks", "training"}
"""Attributes that every module has for torch's own use."""


@dataclass(frozen=True, slots=True)
class Way:
    """Which numbers are changed, and to what."""

    reach: Literal["numbers", "containers", "objects"]
    """numbers: attributes of the module. containers: also those in its tuples, lists, dicts and
    slices. objects: also those in other objects, such as a config, and of the modules around it."""
    choice: Literal["given", "ordered", "last"]
    """What to do where equal sizes now differ. given: take the one that an operator was given.
    ordered: the first number is the first size, the second number the second. last: take the last
    one."""


WAYS = tuple(
    Way(reach, choice)
    for reach in ("numbers", "containers", "objects")
    for choice in ("given", "ordered", "last")
)
"""All ways, the likeliest first."""

Changes = dict[tuple[str, str], Any]
"""(module's path, attribute) → its new value."""


def changes(model: nn.Module, sizes: Sequence[tuple[Size, Way | None]], units: Set[int]) -> Changes:
    """Return which attributes of a model's modules should change.

    Args:
        model: not changed, and neither is any object that it holds.
        sizes: those that change, each with the way to change its numbers; and those that do not,
            with None.
        units: the units that are cut out.
    """
    found: dict[tuple[str, Way], list[Size]] = {}
    ways: dict[str, dict[Way, None]] = {}
    for size, own in sizes:
        if own:
            ways.setdefault(size.module, {})[own] = None
    for size, own in sizes:
        for way in [own] if own else ways.get(size.module, ()):
            for path in _holders(size.module, way):
                found.setdefault((path, way), []).append(size)
    wanted: Changes = {}
    for (path, way), here in found.items():
        module = model.get_submodule(path)
        if has_fixed_sizes(module) or is_transposed(module):
            continue
        held = {
            name: wanted.get((path, name), value)
            for name, value in vars(module).items()
            if name not in _OF_EVERY_MODULE
        }
        new = _Sizes(here, units, way).attributes(held)
        wanted |= {(path, name): value for name, value in new.items()}
    return wanted


def apply(model: nn.Module, wanted: Changes) -> None:
    """Set attributes of a model's modules."""
    for (path, name), value in wanted.items():
        setattr(model.get_submodule(path), name, value)


def _holders(path: str, way: Way) -> list[str]:
    """Return the paths of modules that may hold the numbers of a module's sizes."""
    if way.reach != "objects":
        return [path]
    parts = path.split(".") if path else []
    return [".".join(parts[:count]) for count in range(len(parts), -1, -1)]


class _Sizes:
    """Old sizes of one module, and the new size or sizes of each."""

    def __init__(self, sizes: Sequence[Size], units: Set[int], way: Way) -> None:
        self._way = way
        self._rows: list[tuple[list[int], list[int]]] = []
        news: dict[int, dict[int, None]] = {}  # in order, each once
        told: set[int] = set()
        for size in sorted(sizes, key=lambda size: not size.given):
            old = [part if isinstance(part, int) else len(part) for part in size.parts]
            new = [
                part if isinstance(part, int) else sum(unit not in units for unit in part)
                for part in size.parts
            ]
            if old != new:
                self._rows.append((old, new))
            for part, before, after in zip(size.parts, old, new, strict=True):
                if isinstance(part, int) or (not size.given and before in told):
                    continue
                news.setdefault(before, {})[after] = None
                if size.given and way.choice == "given":
                    told.add(before)
        self._news = {old: list(new) for old, new in news.items() if list(new) != [old]}

    def attributes(self, held: Mapping[str, Any]) -> dict[str, Any]:
        """Return attribute → new value, of those that change."""
        return self._numbers(held) if self._way.reach == "numbers" else self._items(held, -1)

    def _numbers(self, held: Mapping[Any, Any]) -> dict[Any, Any]:
        """Return name → new value of the entries that are numbers and change."""
        changed: dict[Any, Any] = {}
        by_size: dict[int, list[Any]] = {}
        for name, value in held.items():
            if _number(value) and abs(value) in self._news and not _not_a_size(name):
                by_size.setdefault(abs(value), []).append(name)
        for size, fitting in by_size.items():
            names = [name for name in fitting if _is_likely(name)] or fitting
            for name, new in zip(names, self._chosen(size, len(names)), strict=True):
                changed[name] = _like(held[name], new)
        return changed

    def _chosen(self, size: int, places: int) -> list[int]:
        """Return the new size for each place where an old one stands."""
        news = self._news[size]
        if self._way.choice == "ordered" and len(news) > 1:
            return [news[min(at, len(news) - 1)] for at in range(places)]
        return [news[0 if self._way.choice == "given" else -1]] * places

    def _items(self, held: Mapping[Any, Any], depth: int) -> dict[Any, Any]:
        """Return name → new value of the entries that change."""
        changed = self._numbers(held)
        for name, value in held.items():
            if name not in changed and not _number(value) and not _not_a_size(name):
                new = self._nested(value, depth + 1)
                if new is not value:
                    changed[name] = new
        return changed

    def _nested(self, value: Any, depth: int) -> Any:
        """Return a changed copy of a container, or the container if nothing in it changes."""
        if depth > MAX_DEPTH:
            return value
        changed: dict[Any, Any] = {}
        if isinstance(value, slice):
            changed = self._sequence([value.start, value.stop], depth)
        elif isinstance(value, (tuple, list, MutableSequence)) and not isinstance(value, bytearray):
            changed = self._sequence(list(value), depth)
        elif isinstance(value, Mapping):
            changed = self._items(dict(value), depth)
        elif self._way.reach == "objects" and _is_record(value):
            changed = self._items(vars(value), depth)
        return _changed(value, changed) if changed else value

    def _sequence(self, values: list[Any], depth: int) -> dict[int, Any]:
        """Return place → new value of the items that change."""
        row = self._matching(values)
        return dict(enumerate(row)) if row else self._items(dict(enumerate(values)), depth)

    def _matching(self, values: list[Any]) -> list[Any] | None:
        """Return the new values of a sequence that is part of a row of sizes; -1 fits any size."""
        if len(values) < 2 or not all(v is None or _number(v) for v in values):
            return None
        if not any(v is not None and v > 0 for v in values):
            return None
        for old, new in sorted(self._rows, key=lambda row: len(row[0]) != len(values)):
            for at in range(len(old) - len(values) + 1):
                spans = list(zip(values, old[at:], new[at:], strict=False))
                if all(v in (None, -1) or v == was for v, was, _ in spans):
                    result = [v if v in (None, -1) else _like(v, now) for v, _, now in spans]
                    if result != values:
                        return result
        return None


def _number(value: object) -> bool:
    return type(value) is int or isinstance(value, np.integer)


def _not_a_size(name: object) -> bool:
    return isinstance(name, str) and NOT_SIZES.search(name) is not None


def _is_likely(name: object) -> bool:
    return isinstance(name, str) and any(part in name for part in LIKELY)


def _like(value: Any, new: int) -> Any:
    """Return a new number of the same type and sign."""
    return type(value)(-new if value < 0 else new)


def _is_record(value: object) -> bool:
    """Return whether a value is an object that holds settings."""
    if isinstance(value, (nn.Module, Tensor, type, torch.Generator)) or callable(value):
        return False
    return hasattr(value, "__dict__") and type(value).__module__ != "builtins"


def _changed(value: Any, changed: Mapping[Any, Any]) -> Any:
    """Return a slice, sequence, mapping or object of the same kind with some entries changed."""
    if isinstance(value, slice):
        return slice(changed.get(0, value.start), changed.get(1, value.stop), value.step)
    if isinstance(value, (tuple, list)):
        make: Callable[..., Any] = getattr(type(value), "_make", type(value))
        return make([changed.get(at, item) for at, item in enumerate(value)])
    if isinstance(value, Mapping) and not isinstance(value, MutableMapping):
        return {**value, **changed}
    sequence = isinstance(value, MutableSequence)
    other = copy.deepcopy(value) if sequence else copy.copy(value)
    for name, item in changed.items():
        if sequence or isinstance(value, MutableMapping):
            other[name] = item
        else:
            object.__setattr__(other, name, item)  # frozen dataclasses too
    return other
