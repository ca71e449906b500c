"""The gate: magnitude plus what was learned through the cut, by gradient descent."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from secateur.errors import UsageError
from secateur.model.parameters import parameters, unwrapped
from secateur.pruning.calibration import Calibration
from secateur.pruning.gates.gates import SUFFIX, Gates


def scores(
    model: nn.Module,
    names: Sequence[str],
    *,
    seed: int = 0,
    calibration: Calibration | None = None,
) -> dict[str, Tensor]:
    """Return |w| + gate, float32; `seed` and `calibration` are not used.

    Raises:
        UsageError: a parameter has no gate; gates must be attached and learned first.
    """
    buffers = dict(unwrapped(model).named_buffers())
    missing = [name for name in parameters(model, names) if name + SUFFIX not in buffers]
    if missing:
        raise UsageError(
            f"{len(missing)} of {len(names)} parameters have no gate (the first is "
            f"{missing[0]!r}); attach gates with Gates.attach(model, names) and learn them, "
            "or choose another criterion"
        )
    return Gates(model, names).scores()
