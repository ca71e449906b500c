"""Rules that give scores. Each criterion is one file here, found by its name.

A criterion's file has one function `scores(model, names, *, seed)` that returns one float tensor
per parameter name, shaped as the parameter; a higher score is more important. Its docstring's
first line describes it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from secateur.errors import UsageError


class Scoring(Protocol):
    """The signature of every criterion."""

    def __call__(
        self, model: nn.Module, names: Sequence[str], *, seed: int = 0
    ) -> dict[str, Tensor]:
        """Return name → scores of the named parameters; `seed` matters where chance does."""


@dataclass(frozen=True, slots=True)
class Criterion:
    """A criterion by its name."""

    name: str
    description: str
    function: Scoring


def find(name: str) -> Criterion:
    """Return a criterion.

    Raises:
        UsageError: there is none of that name; lists those that there are.
    """
    if name not in CRITERIA:
        raise UsageError(
            f"unknown criterion {name!r}; the valid ones are {', '.join(sorted(CRITERIA))}"
        )
    return CRITERIA[name]


def _load(name: str) -> Criterion:
    module = importlib.import_module(f"{__name__}.{name}")
    function: Scoring = module.scores
    return Criterion(name, (module.__doc__ or "").strip().split("\n")[0], function)


CRITERIA: dict[str, Criterion] = {
    module.name: _load(module.name) for module in pkgutil.iter_modules(__path__)
}
"""Every criterion, by its name."""
