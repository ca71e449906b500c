"""Second order: the loss of cutting the weight alone, by the diagonal of the Fisher matrix."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from secateur.model.parameters import parameters
from secateur.pruning.calibration import Calibration
from secateur.pruning.gradients import gradients

NEEDS = "gradients"

BATCH = 8
"""Samples of one gradient."""

DAMPING = 0.01
"""Added to the Fisher matrix's diagonal, in units of its mean over the tensor."""


def scores(
    model: nn.Module,
    names: Sequence[str],
    *,
    seed: int = 0,
    calibration: Calibration | None = None,
) -> dict[str, Tensor]:
    """Return w² (F_qq + λ) / 2, float64: the saliency of Optimal Brain Surgeon, F diagonal.

    F is the empirical Fisher matrix, F_qq the mean of (∂L/∂w)² over batches of 8 samples. Blocks
    of F would rank a weight by what is lost when its neighbours make up for it; nothing makes up
    for anything in a plain cut, and of neighbours that can replace one another all would go. So
    the diagonal it is; `reconstruct` makes up afterwards. Sources: LeCun et al. 1989 (Optimal
    Brain Damage); Hassibi & Stork 1993; Singh & Alistarh 2020, arXiv:2004.14340, for the
    empirical Fisher matrix. `seed` is not used.
    """
    assert calibration is not None
    weights = parameters(model, names)
    # double: squares of a converged network's gradients lie below what float32 holds
    fisher = {name: torch.zeros_like(w, dtype=torch.float64) for name, w in weights.items()}
    count = 0
    with torch.no_grad():
        for found in gradients(model, names, calibration, batch=BATCH, purpose="criterion 'obs'"):
            count += 1
            for name, gradient in found.items():
                fisher[name] += gradient.double().square()
        return {name: _saliency(w.detach(), fisher[name] / count) for name, w in weights.items()}


def _saliency(weight: Tensor, fisher: Tensor) -> Tensor:
    # Where no gradient ever came, any positive damping gives the magnitude's order.
    damping = (DAMPING * fisher.mean()).clamp_min(1e-60)
    saliency: Tensor = weight.double().square() * (fisher + damping) / 2
    return saliency
