"""Random numbers: the control that every other criterion must beat."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from secateur.model.parameters import parameters
from secateur.pruning.calibration import Calibration


def scores(
    model: nn.Module,
    names: Sequence[str],
    *,
    seed: int = 0,
    calibration: Calibration | None = None,
) -> dict[str, Tensor]:
    """Return numbers uniform in [0, 1), float32.

    A tensor's numbers depend on the seed, its name and its shape alone: not on the other tensors,
    on the device or on torch's global generator, which is left as it was.
    """
    return {
        name: _uniform(seed, name, weight.shape).to(weight.device)
        for name, weight in parameters(model, names).items()
    }


def _uniform(seed: int, name: str, shape: torch.Size) -> Tensor:
    digest = hashlib.sha256(repr((seed, name, tuple(shape))).encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.rand(shape, generator=generator, dtype=torch.float32)
