"""Magnitude, made comparable between layers: w² over the sum of all squares not below it."""

from __future__ import annotations

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
    """Return w² / Σ u² over the tensor's weights u that rank no lower, float64, in [0, 1].

    Within a tensor the order is that of the magnitude, ties by position included; every
    tensor's largest weight has score 1, so that no tensor is emptied before others are down to
    one weight. Source: Lee et al. 2021, arXiv:2010.07611. `seed` and `calibration` are not used.
    """
    return {name: _lamp(weight.detach()) for name, weight in parameters(model, names).items()}


def _lamp(weight: Tensor) -> Tensor:
    size = weight.abs().flatten().double()
    # Lowest first; of equal weights the last in the tensor first, so the first ranks highest.
    order = (len(size) - 1) - size.flip(0).argsort(stable=True)
    squares = size[order].square()
    rest = squares.flip(0).cumsum(0).flip(0)
    scores = torch.empty_like(size)
    scores[order] = torch.where(rest > 0, squares / rest.clamp_min(1e-300), squares)
    return scores.view(weight.shape)
