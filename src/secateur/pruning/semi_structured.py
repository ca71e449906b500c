"""2:4 weights on NVIDIA GPUs: torch's own semi-structured tensors in place of dense ones."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.errors import UsageError
from secateur.pruning.parameters import unwrapped

SIZES = {torch.float16: (32, 64), torch.bfloat16: (32, 64), torch.int8: (16, 128)}
"""What rows and columns must be multiples of, by dtype: the limits of torch's kernels."""


@dataclass(frozen=True, eq=False)
class SemiStructured:
    """What `to_semi_structured` returns."""

    model: nn.Module
    """For inference: its converted weights take no gradient."""
    converted: tuple[str, ...]
    """The linear layers' weights that the GPU now skips half of."""
    left: dict[str, str]
    """Those that stay dense: name → reason."""


def to_semi_structured(model: nn.Module) -> SemiStructured:
    """Convert the linear layers of a model that was cut 2:4, in a copy, for inference.

    The GPU's sparse tensor cores then do half of the multiplications. Whether that is faster
    depends on the sizes: measure it (benchmarks/semi_structured.py).

    Args:
        model: on a CUDA device of compute capability 8.0 or newer, in float16 or bfloat16.
            Not changed.

    Raises:
        UsageError: the model lies elsewhere, this torch has no such tensors, or no layer can be
            converted; says why of each.
    """
    model = unwrapped(model)
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    left = {f"{name}.weight": why for name, m in layers.items() if (why := _refusal(m.weight))}
    if len(left) == len(layers):
        reasons = "; ".join(f"{name}: {why}" for name, why in left.items()) or "it has none"
        raise UsageError(f"no linear layer can be made semi-structured ({reasons})")
    try:
        from torch.sparse import to_sparse_semi_structured
    except ImportError as error:  # older than 2.1
        raise UsageError(
            f"torch {torch.__version__} has no semi-structured tensors; install a newer one"
        ) from error
    model = copy.deepcopy(model)
    converted = [name for name in layers if f"{name}.weight" not in left]
    for name in converted:
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        sparse = to_sparse_semi_structured(layer.weight.detach().contiguous())
        layer.weight = nn.Parameter(sparse, requires_grad=False)
    return SemiStructured(model, tuple(f"{name}.weight" for name in converted), left)


def _refusal(weight: Tensor) -> str | None:
    """Return why a weight cannot be converted, or None."""
    if not is_two_of_four(weight):
        return "not 2:4; cut it with pattern '2:4'"
    if weight.device.type != "cuda":
        return f"on {weight.device}; move the model to a CUDA device"
    if weight.dtype not in SIZES:
        return f"{str(weight.dtype).removeprefix('torch.')}; convert the model to bfloat16"
    if torch.cuda.get_device_capability(weight.device) < (8, 0):
        return "this GPU has no sparse tensor cores; they came with compute capability 8.0"
    rows, columns = SIZES[weight.dtype]
    if weight.shape[0] % rows or weight.shape[1] % columns:
        return f"{tuple(weight.shape)} are no multiples of {rows} and {columns}"
    return None


def is_two_of_four(weight: Tensor) -> bool:
    """Return whether every 4 consecutive weights along the inputs hold at most 2 non-zeros.

    Args:
        weight: [outputs, inputs].
    """
    if weight.shape[1] % 4:
        return False
    return bool(((weight.detach() != 0).reshape(len(weight), -1, 4).sum(2) <= 2).all())
