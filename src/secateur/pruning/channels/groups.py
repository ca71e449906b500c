"""Coupled channels: frozen values that say what is cut together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np

Role = Literal["writes", "reads", "along"]

Ints = np.ndarray[Any, np.dtype[np.int64]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]

STAYS = -1
"""In place of a unit's number, for an index that is never cut."""


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """One index of one dimension of a parameter or buffer."""

    name: str
    dim: int
    index: int


@dataclass(frozen=True, slots=True)
class Axis:
    """One dimension of a parameter or buffer, and the unit that each of its indices belongs to."""

    name: str
    dim: int
    role: Role
    """writes: a weight's outputs. reads: a weight's inputs. along: one value a channel, as a bias,
    a norm's scale, shift or statistics, or a table that is added."""
    units: tuple[int, ...]
    """For each index the number of its unit, or STAYS."""


@dataclass(frozen=True, slots=True)
class Size:
    """Sizes that a module's own code may hold as numbers, such as `num_heads`.

    They are in the order in which code would give them: a shape, the sizes of the pieces of a
    split, or where a slice begins and ends.
    """

    module: str
    parts: tuple[int | tuple[int, ...], ...]
    """For each size the units of its indices, as in `Axis`; the size where none can be cut."""
    given: bool
    """An operator was given these numbers; else they are only what it returned."""

    @property
    def units(self) -> frozenset[int]:
        """All units in it."""
        return frozenset(unit for part in self.parts if not isinstance(part, int) for unit in part)


@dataclass(frozen=True, slots=True)
class Group:
    """Units that can be cut one by one from the same layers."""

    name: str
    """The first weight that writes its channels."""
    units: range
    """The numbers of its units."""
    tensors: tuple[str, ...]
    """The weights that write its channels."""

    def __len__(self) -> int:
        return len(self.units)


@dataclass(frozen=True, slots=True, repr=False)
class Groups(Sequence[Group]):
    """All units of a model that can be cut, in groups; units are numbered through.

    A unit is what must be cut together: a channel, a neuron, or a head, in all tensors that write
    it, normalise it, or read it.
    """

    groups: tuple[Group, ...]
    axes: tuple[Axis, ...]
    sizes: tuple[Size, ...]
    floors: tuple[tuple[int, ...], ...]
    """Units of which at least one is kept: those of one tensor in the network, such as a slice
    that a single layer reads. A layer would be left without channels otherwise."""
    shapes: Mapping[str, tuple[int, ...]]
    """The shapes of the parameters that have axes; tensors that are not here are buffers."""
    blocked: Mapping[str, str]
    """Weights of whose outputs none, or only some, can be cut: name → reason."""

    @property
    def units(self) -> int:
        """How many units there are, in all groups."""
        return sum(len(group) for group in self.groups)

    @property
    def by_tensor(self) -> dict[str, list[Axis]]:
        """The axes of each tensor: name → axes."""
        found: dict[str, list[Axis]] = {}
        for axis in self.axes:
            found.setdefault(axis.name, []).append(axis)
        return found

    def parts(self, unit: int) -> tuple[Part, ...]:
        """Return every index of every tensor that belongs to a unit."""
        return tuple(
            Part(axis.name, axis.dim, int(index))
            for axis in self.axes
            for index in np.flatnonzero(np.asarray(axis.units) == unit)
        )

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups)

    @overload
    def __getitem__(self, at: int) -> Group: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[Group, ...]: ...
    def __getitem__(self, at: int | slice) -> Group | tuple[Group, ...]:
        return self.groups[at]

    def __hash__(self) -> int:
        return hash((self.groups, self.axes))

    def __repr__(self) -> str:
        lines = [
            f"Groups({len(self)} groups of {self.units:,} units; {len(self.blocked)} weights stay)"
        ]
        for group in self:
            more = f" with {', '.join(group.tensors[1:])}" if len(group.tensors) > 1 else ""
            lines.append(f"  {len(group):>5} units  {group.name}{more}")
        lines += [f"   stays  {name}: {reason}" for name, reason in self.blocked.items()]
        return "\n".join(lines)
