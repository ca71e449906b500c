"""Whether a changed model gives what the given one gave, on an example, in float32."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from secateur.errors import UsageError
from secateur.model.copying import copied
from secateur.model.inputs import Inputs, each, run, tensors_in
from secateur.model.passes import undisturbed

TOLERANCE = 1e-4
"""How far outputs may differ, as a fraction of the largest."""


def outputs(model: nn.Module, example: Inputs) -> list[Tensor]:
    """Run a float32 copy of a model in evaluation mode and return its floating outputs."""
    model = copied(model)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point() and tensor.dtype.itemsize < 4:
            tensor.data = tensor.data.float()
    with undisturbed(model), torch.inference_mode():
        out = run(model, each(example, _widened))
    return [tensor.clone() for tensor in tensors_in(out) if tensor.is_floating_point()]


def _widened(tensor: Tensor) -> Tensor:
    half = tensor.is_floating_point() and tensor.dtype.itemsize < 4
    return tensor.float() if half else tensor


def difference(model: nn.Module, example: Inputs, want: list[Tensor]) -> str | None:
    """Return how a model's outputs differ from those that are wanted, or None."""
    try:
        have = outputs(model, example)
    except UsageError:
        raise
    except Exception as error:  # whatever a model's own code raises
        text = str(error).strip().splitlines()
        return f"the changed model fails: {text[0] if text else type(error).__name__}"
    if [tensor.shape for tensor in have] != [tensor.shape for tensor in want]:
        return "the changed model's outputs have other shapes"
    for first, second in zip(have, want, strict=True):
        scale = float(second.abs().max()) if second.numel() else 0.0
        if not torch.allclose(first, second, rtol=0, atol=TOLERANCE * scale, equal_nan=True):
            far = float((first - second).abs().max())
            return f"the changed model's outputs differ by {far:.3g} where they reach {scale:.3g}"
    return None
