"""Random: uniform noise, the control that every criterion must beat."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def scores(model: nn.Module, names: Sequence[str], *, seed: int = 0) -> dict[str, Tensor]:
    """Return uniform float32 noise; depends on the seed and each tensor's name and shape alone."""
    return {name: _noise(model.get_parameter(name), name, seed) for name in names}


def _noise(parameter: Tensor, name: str, seed: int) -> Tensor:
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    return torch.rand(parameter.shape, generator=generator).to(parameter.device)
