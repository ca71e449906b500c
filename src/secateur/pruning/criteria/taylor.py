"""First order: the squared change of the loss when the weight goes, from its gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from secateur.model.parameters import parameters
from secateur.pruning.calibration import Calibration
from secateur.pruning.gradients import gradients

NEEDS = "gradients"

BATCH = 32
"""Samples of one gradient: their mean is squared, so more of them say less of each sample."""


def scores(
    model: nn.Module,
    names: Sequence[str],
    *,
    seed: int = 0,
    calibration: Calibration | None = None,
) -> dict[str, Tensor]:
    """Return the mean of (w * ∂L/∂w)² over batches of 32 samples, float32.

    Source: Molchanov et al. 2019, arXiv:1906.10771, equation 8, for single weights. `seed` is
    not used.
    """
    assert calibration is not None
    weights = parameters(model, names)
    total = {name: torch.zeros_like(w, dtype=torch.float32) for name, w in weights.items()}
    count = 0
    with torch.no_grad():
        for found in gradients(
            model, names, calibration, batch=BATCH, purpose="criterion 'taylor'"
        ):
            count += 1
            for name, gradient in found.items():
                total[name] += (gradient * weights[name].detach()).square()
    return {name: score / count for name, score in total.items()}
