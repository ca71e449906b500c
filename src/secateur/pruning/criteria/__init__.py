"""Criteria: rules that give every weight a score; higher means more important.

Each module of this package is one criterion: its name is the module's, its description the first
line of the module's docstring, its rule the module's function `scores`, what it needs the module's
NEEDS, where it needs data, and among which weights its scores compare the module's SCOPE. A new
criterion is a new file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from secateur.errors import UsageError
from secateur.model.parameters import parameters, unwrapped
from secateur.pruning.calibration import Calibration
from secateur.pruning.selecting.budget import Scope

Needs = Literal["nothing", "inputs", "gradients"]

__all__ = ["CRITERIA", "Criterion", "Rule", "find"]


class Rule(Protocol):
    """What every criterion's `scores` is."""

    def __call__(
        self,
        model: nn.Module,
        names: Sequence[str],
        *,
        seed: int = 0,
        calibration: Calibration | None = None,
    ) -> dict[str, Tensor]:
        """Return name → scores of the named parameters.

        Args:
            model: not changed.
            names: parameter names, as `prunable(model).names`.
            seed: of whatever the criterion draws at random; the others ignore it.
            calibration: what a criterion looks at that needs data; the others ignore it.

        Returns:
            Floating tensors, finite, shaped as the parameters and on their device, that share no
            memory with the model; in the order of `names`.

        Raises:
            UsageError: a name is no parameter of the model, or the model lacks what the
                criterion reads.
        """


@dataclass(frozen=True, slots=True)
class Criterion:
    """A rule that gives scores, and how to speak of it."""

    name: str
    description: str
    """One line, for help texts and reports."""
    rule: Rule
    needs: Needs = "nothing"
    """nothing: only the network. inputs: a calibration set, without labels. gradients: a
    calibration set with targets and a loss."""
    scope: Scope = "global"
    """Among which weights its scores compare as published: the scope of a bare keep ratio."""

    def scores(
        self,
        model: nn.Module,
        names: Sequence[str],
        *,
        seed: int = 0,
        calibration: Calibration | None = None,
    ) -> dict[str, Tensor]:
        """Return what the rule gives, after a look at whether it has what it needs.

        Raises:
            UsageError: as the rule does; or it needs data, and the calibration set is missing,
                has no targets or loss where they are needed, or does not fit the model.
        """
        parameters(model, names)
        if self.needs == "nothing":
            return self.rule(model, names, seed=seed, calibration=calibration)
        if calibration is None:
            raise UsageError(
                f"criterion {self.name!r} looks at data; give it a few hundred training inputs: "
                "data= of secateur.prune, or a Calibration"
            )
        if self.needs == "gradients" and not calibration.labelled:
            raise UsageError(
                f"criterion {self.name!r} needs gradients; give it a target for every input, and "
                "a loss: data= and loss= of secateur.prune, or a Calibration with both; or named "
                "arguments, labels among them, of which the model takes its own loss"
            )
        device = calibration.device
        # some models draw in evaluation mode too
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            calibration.check(unwrapped(model))
            return self.rule(model, names, seed=seed, calibration=calibration)


def _criterion(name: str) -> Criterion:
    module = import_module(f"{__name__}.{name}")
    description = (module.__doc__ or "").partition("\n")[0]
    needs: Needs = getattr(module, "NEEDS", "nothing")
    scope: Scope = getattr(module, "SCOPE", "global")
    return Criterion(name, description, module.scores, needs, scope)


CRITERIA: dict[str, Criterion] = {
    name: _criterion(name) for name in sorted(module.name for module in iter_modules(__path__))
}
"""Every criterion, by its name."""


def find(name: str) -> Criterion:
    """Return the criterion of a name.

    Raises:
        UsageError: unknown criterion; lists the valid names.
    """
    if name not in CRITERIA:
        raise UsageError(
            f"there is no criterion {name!r}; choose one of {', '.join(sorted(CRITERIA))}"
        )
    return CRITERIA[name]
