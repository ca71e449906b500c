"""The same inputs of another number of samples."""

from __future__ import annotations

import torch

from secateur.model.inputs import Inputs, each


def rows(example: Inputs, count: int) -> Inputs:
    """Return `count` samples, those of the example in turn; tensors without axes as they are.

    Args:
        example: inputs of at least one sample, tensors [N, ...].
        count: how many.
    """
    return each(
        example,
        lambda x: x[torch.arange(count, device=x.device) % len(x)] if x.dim() else x,
    )
