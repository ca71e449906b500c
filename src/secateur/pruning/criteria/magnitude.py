"""The weight's absolute value."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from secateur.model.parameters import parameters
from secateur.pruning.calibration import Calibration
from secateur.pruning.selecting.ranking import Absolute


def scores(
    model: nn.Module,
    names: Sequence[str],
    *,
    seed: int = 0,
    calibration: Calibration | None = None,
) -> dict[str, Tensor]:
    """Return |w|, in the weight's own dtype, which holds it exactly.

    `seed` and `calibration` are not used.
    """
    return {name: weight.detach().abs() for name, weight in parameters(model, names).items()}


def lazy(model: nn.Module, names: Sequence[str]) -> dict[str, Absolute]:
    """Return the same scores without making them: `select` takes |w| chunk by chunk.

    For models whose scores would not fit beside them. They share the model's memory: select
    before the model changes.

    Raises:
        UsageError: a name is no parameter of the model.
    """
    return {name: Absolute(weight.detach()) for name, weight in parameters(model, names).items()}
