"""The dense network that is as fast as a cut one: its width, and the times that it was chosen by.

The width is measured, so it is no field of the spec and no part of its hash: another machine may
find another one. It is measured once for a study, before such a network is trained, and kept: all
seeds, and a study that goes on, train networks of that width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from secateur.study.plan import Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One width that was timed."""

    width: float
    parameters: int
    latency_ms: float
    ratio: float
    """Its time over that of the cut network: the median over rounds in which both ran in turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """What was found, of one cut network and one machine."""

    cut: Trial
    """Whose artifact it is to be as fast as."""
    batch: int
    threads: int
    int8: bool
    """Whether both were timed as int8 files."""
    width: float | None
    """Of the widest dense network that is as fast; None: there is none, and `why` says why."""
    why: str = ""
    tried: tuple[Tried, ...] = ()
    """From the widest, the uncut network at width 1."""
    cut_ms: float | None = None
    """Time of the cut network, in the rounds of the width that was chosen."""
    others: float | None = None
    """The largest part of the cores' time that other processes took; None: not known."""
    machine: Mapping[str, Any]
    date: str

    @property
    def chosen(self) -> Tried | None:
        """The width that was chosen, as it was timed."""
        return next((each for each in self.tried if each.width == self.width), None)

    @property
    def speedup(self) -> float | None:
        """How many times as fast as the uncut network the cut one is; None: not measured."""
        return next((each.ratio for each in self.tried if each.width == 1), None)


def as_json(matched: Matched) -> dict[str, Any]:
    """Return JSON values, of which `of_json` makes the same."""
    return asdict(matched)


def of_json(content: Mapping[str, Any]) -> Matched:
    """Return what `as_json` was given; `secateur.study.schema` says what it must look like."""
    given = _fields(Matched, content)
    cut = Trial(**_fields(Trial, content["cut"]))
    tried = tuple(Tried(**_fields(Tried, each)) for each in content["tried"])
    return Matched(**{**given, "cut": cut, "tried": tried})


def _fields(kind: type[Matched | Tried | Trial], content: Mapping[str, Any]) -> dict[str, Any]:
    return {each.name: content[each.name] for each in fields(kind)}
