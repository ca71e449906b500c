"""Gate: the learned importance of each weight."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from secateur.errors import UsageError
from secateur.pruning.gates import Gates


def scores(model: nn.Module, names: Sequence[str], *, seed: int = 0) -> dict[str, Tensor]:
    """Return the gates of the named parameters, float32; `seed` does not matter.

    Raises:
        UsageError: the model, or one of the parameters, has no gates.
    """
    gates = Gates.of(model).scores()
    for name in names:
        if name not in gates:
            raise UsageError(
                f"{name!r} has no gate (there are gates for {', '.join(gates)}); "
                "attach gates to every parameter that is to be cut, and learn them first"
            )
    return {name: gates[name].detach().clone() for name in names}
