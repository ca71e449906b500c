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
"""Consecutive weights whose interaction is looked at; memory is 4 * BLOCK bytes a weight."""

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
    """Return w² / (2 [F⁻¹]_qq), float32: the Optimal Brain Surgeon's saliency.

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
        return {name: _saliency(w.detach(), fisher[name] / count) for name, w in weights.items()}


def _blocks(values: Tensor) -> Tensor:
    """Return [blocks, BLOCK]; the last one is filled up with zeros."""
    flat = values.flatten()
    return F.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)


def _saliency(weight: Tensor, fisher: Tensor) -> Tensor:
    count = weight.numel()
    diagonal = fisher.diagonal(dim1=1, dim2=2)
    # Where no gradient ever came, any positive damping gives the magnitude's order.
    damping = (DAMPING * diagonal.sum() / count).clamp_min(torch.finfo(torch.float32).tiny ** 0.5)
    diagonal += damping
    inverses = (torch.linalg.inv(part.double()) for part in torch.split(fisher, CHUNK))
    diagonals = [part.diagonal(dim1=1, dim2=2).flatten() for part in inverses]
    inverse = torch.cat(diagonals)[:count]
    saliency: Tensor = weight.flatten().double().square() / (2 * inverse)
    return saliency.float().view(weight.shape)
