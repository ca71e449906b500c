"""Magnitude: a weight's absolute value."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


def scores(model: nn.Module, names: Sequence[str], *, seed: int = 0) -> dict[str, Tensor]:
    """Return |w| of the named parameters, in their own dtype; `seed` does not matter."""
    return {name: model.get_parameter(name).detach().abs() for name in names}
