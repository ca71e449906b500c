"""Second order: the loss of a cut whose block of weights makes up for it (block Fisher)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.pruning.calibration import Calibration
from secateur.pruning.gradients import gradients
from secateur.pruning.parameters import parameters

NEEDS = "gradients"

BLOCK = 16
"""Consecutive weights whose interaction is looked at; memory is 4 * BLOCK bytes a weight, and 4
for gradients, 8 for scores, however many gradients there are."""

CHUNK = 2**14
"""Blocks inverted together."""

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
    """Return w² / (2 [F⁻¹]_qq), float64: the Optimal Brain Surgeon's saliency.

    F is the empirical Fisher matrix, the mean of g gᵀ over gradients g of 8 samples each, in
    blocks of 16 consecutive weights of a tensor, damped. Sources: Hassibi & Stork 1993; Singh &
    Alistarh 2020 (WoodFisher), arXiv:2004.14340. `seed` is not used.
    """
    assert calibration is not None
    weights = parameters(model, names)
    fisher = {
        name: torch.zeros(-(-w.numel() // BLOCK), BLOCK, BLOCK, device=w.device)
        for name, w in weights.items()
    }
    count = 0
    with torch.no_grad():
        for found in gradients(model, names, calibration, batch=BATCH, purpose="criterion 'obs'"):
            count += 1
            for name, gradient in found.items():
                blocks = _blocks(gradient)
                fisher[name].baddbmm_(blocks[:, :, None], blocks[:, None, :])
        return {
            name: _saliency(w.detach(), fisher.pop(name).div_(count)) for name, w in weights.items()
        }


def _blocks(values: Tensor) -> Tensor:
    """Return [blocks, BLOCK]; the last one is filled up with zeros."""
    flat = values.flatten()
    return F.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)


def _saliency(weight: Tensor, fisher: Tensor) -> Tensor:
    count = weight.numel()
    diagonal = fisher.diagonal(dim1=1, dim2=2)
    # Where no gradient ever came, any positive damping gives the magnitude's order. It lies far
    # below the squares of a converged network's gradients, which float32 holds down to 1e-38.
    damping = (DAMPING * diagonal.sum(dtype=torch.float64) / count).clamp_min(1e-60)
    inverse = torch.cat([_inverse(part, damping) for part in torch.split(fisher, CHUNK)])[:count]
    saliency: Tensor = weight.flatten().double().square() / (2 * inverse)
    return saliency.view(weight.shape)


def _inverse(fisher: Tensor, damping: Tensor) -> Tensor:
    """Return the diagonal of (F + damping)⁻¹, float64, of blocks [blocks, BLOCK, BLOCK]."""
    damped = fisher.double()
    diagonal = damped.diagonal(dim1=1, dim2=2)
    diagonal += damping
    inverse = torch.linalg.inv(damped).diagonal(dim1=1, dim2=2)
    # In exact arithmetic it lies between these; F's rounding can push it out where a block's
    # gradients are many orders above the tensor's mean.
    return torch.minimum(torch.maximum(inverse, 1 / diagonal), 1 / damping).flatten()
