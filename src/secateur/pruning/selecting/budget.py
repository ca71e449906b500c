"""How many weights a cut keeps, and where: a frozen value."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import Literal, TypeGuard

from secateur.arguments import all_plain, checked, is_real
from secateur.errors import BudgetError
from secateur.pruning.selecting.patterns import Pattern, parse

Scope = Literal["global", "layer", "row"] | tuple[str, ...]


@checked()
@dataclass(frozen=True, slots=True, init=False)
class Budget:
    """What to keep of all prunable weights.

    `Budget(keep, scope="global", floor=0.002, pattern="weight", overrides=())`; `keep` may be
    left out, or None, with an n:m pattern, which says it already. `overrides` may be given as a
    dict. Equal budgets are equal values, and a budget can be a key.

    Raises:
        BudgetError: a field is out of its range, or two do not go together; says which, and
            what it may be.
    """

    keep: float
    """Keep ratio, in (0, 1]: the fraction of the weights that is kept."""
    scope: Scope
    """global: rank all weights together; layer: keep the same fraction of every tensor; row: and
    in it of every output's weights, for single weights (as in arXiv:2306.11695); a tuple of globs
    over parameter names: keep the same fraction of every group of tensors, and rank within it. A
    tensor belongs to the first glob that matches its name (`*` also matches dots); those that none
    matches are one more group."""
    floor: float
    """Fraction of every tensor's weights, in [0, 1], that is kept at any keep ratio; where it is
    above 0, every tensor keeps at least one weight. Blocks are counted instead of weights where
    the pattern has them; n:m needs no floor, and has none."""
    pattern: Pattern
    """Given as a text. weight: every weight by itself; n:m, such as 2:4: exactly n of every m
    consecutive weights along the inputs; dot4: blocks of four consecutive input channels at one
    output and one kernel position; RxC, such as 1x4: blocks of R rows and C columns of the matrix
    [outputs, inputs * kernel positions]; channel: whole channels."""
    overrides: tuple[tuple[str, float], ...]
    """(glob, keep ratio in (0, 1]) pairs. A tensor whose name a glob matches keeps exactly that
    fraction of its weights, whatever the floor; the first match wins. The keep ratio of all
    holds nevertheless: what the overrides take is missing, or left over, elsewhere."""

    def __init__(
        self,
        keep: float | None = None,
        scope: Scope = "global",
        floor: float = 0.002,
        pattern: str = "weight",
        overrides: Mapping[str, float] | Iterable[tuple[str, float]] = (),
    ) -> None:
        pairs = _overrides(overrides)
        shape = parse(pattern)
        if shape.ratio is not None:
            keep = _keep_of(shape, shape.ratio, keep)
            _refuse_partial(shape, pairs)
        if not _is_ratio(keep):
            raise BudgetError(
                f"keep is {keep!r}, but must be a keep ratio in (0, 1]; "
                "0.1 keeps 10 % of the weights (sparsity 90 %)"
            )
        if not is_real(floor) or not 0 <= floor <= 1:
            raise BudgetError(
                f"floor is {floor!r}, but must be the fraction of every tensor that is "
                "always kept, in [0, 1]; 0 means no floor"
            )
        if scope == "row" and shape.unit != "weights":
            raise BudgetError(
                f"scope is 'row', which ranks the single weights of an output, but the pattern "
                f"{shape!r} cuts {shape.unit}; give scope='layer'"
            )
        put = object.__setattr__
        put(self, "keep", float(keep))
        put(self, "scope", scope if scope in ("global", "layer", "row") else _globs(scope))
        put(self, "floor", floor)
        put(self, "pattern", shape)
        put(self, "overrides", pairs)

    def count(self, total: int) -> int:
        """Return K, how many of `total` >= 1 weights (with a block pattern: blocks) are kept.

        K = round(keep * total) with Python's `round`, so halves go to the even number
        (2.5 → 2, 3.5 → 4), but never less than 1. It never falls while `keep` rises. An n:m
        pattern keeps n of every m instead, which may be a few more where m does not divide the
        inputs.
        """
        return max(1, round(self.keep * total))

    def least(self, size: int) -> int:
        """Return how many of a tensor's `size` weights its floor keeps: ceil(floor * size).

        The product is exact in the floor's decimal digits (0.07 of 100 is 7, not 8). At least 1
        where the floor is above 0 and the tensor is not empty.
        """
        return math.ceil(Fraction(str(self.floor)) * size)

    def override(self, name: str) -> float | None:
        """Return the keep ratio of the first override that matches a name, or None."""
        return next((ratio for glob, ratio in self.overrides if fnmatchcase(name, glob)), None)


def _is_ratio(value: object) -> TypeGuard[float]:
    return is_real(value) and 0 < value <= 1


def _globs(scope: object) -> tuple[str, ...]:
    """Return the globs of a group scope."""
    given = tuple(scope) if isinstance(scope, (tuple, list)) else ()
    if not given or not all(isinstance(glob, str) for glob in given):
        raise BudgetError(
            f"scope is {scope!r}, but must be 'global', 'layer', 'row', or a tuple of globs over "
            "parameter names, such as ('encoder.*', 'head.*')"
        )
    return given


def _overrides(given: object) -> tuple[tuple[str, float], ...]:
    """Return (glob, ratio) pairs in their order."""
    if given == ():
        return ()
    pairs: list[tuple[str, float]] = []
    items = given.items() if isinstance(given, Mapping) else given
    for pair in [items] if isinstance(items, str) or not isinstance(items, Iterable) else items:
        match all_plain(pair):
            case (str() as glob, ratio) if _is_ratio(ratio):
                pairs.append((glob, float(ratio)))
            case _:
                raise BudgetError(
                    f"overrides has {pair!r}, but must be pairs of a glob and a keep ratio in "
                    "(0, 1], such as {'head.*': 0.5}; to leave a parameter out altogether, use "
                    "exclude=['head.*'] of prunable"
                )
    return tuple(pairs)


def _keep_of(pattern: Pattern, ratio: float, keep: float | None) -> float:
    if keep is not None and not (_is_ratio(keep) and float(keep) == ratio):
        raise BudgetError(
            f"keep is {keep!r}, but the pattern {pattern!r} keeps {ratio:g} of the weights; "
            "leave keep out"
        )
    return ratio


def _refuse_partial(pattern: Pattern, pairs: tuple[tuple[str, float], ...]) -> None:
    for glob, ratio in pairs:
        if ratio != 1:
            raise BudgetError(
                f"the override of {glob!r} keeps {ratio:g}, but with the pattern {pattern!r} an "
                "override can only leave a tensor dense: give 1.0"
            )
