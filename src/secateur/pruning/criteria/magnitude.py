"""The weight's absolute value."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from secateur.pruning.calibration import Calibration
from secateur.pruning.parameters import parameters


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
