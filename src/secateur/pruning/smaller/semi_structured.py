"""2:4 weights on NVIDIA GPUs: torch's own semi-structured tensors in place of dense ones."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from secateur.arguments import BOOL, TENSORS, a, checked
from secateur.errors import UsageError
from secateur.measure.gpu import cuda_milliseconds
from secateur.model.copying import copied
from secateur.model.inputs import Inputs, run
from secateur.model.modes import evaluating
from secateur.model.parameters import unwrapped
from secateur.model.passes import hooked, undisturbed

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
    milliseconds: dict[str, tuple[float, float]]
    """With an example: name of the weight → time of its layer dense, and converted."""
    whole: tuple[float, float] | None = None
    """With an example, where layers were converted: time of the model dense, and converted."""


@checked(model=a(nn.Module, "a torch module"), example=TENSORS, graph=BOOL)
def to_semi_structured(
    model: nn.Module, *, example: Inputs | None = None, graph: bool = False
) -> SemiStructured:
    """Convert the linear layers of a model that was cut 2:4, in a copy, for inference.

    The GPU's sparse tensor cores then do half of the multiplications, but torch takes half a
    millisecond to start each of them, and small layers lose. With an example every layer is timed
    on what it gets there, and stays dense where that is as fast; then the model is, likewise.

    Args:
        model: on a CUDA device of compute capability 8.0 or newer, in float16 or bfloat16.
            Not changed.
        example: inputs as the model takes them (a tensor, several arguments, or a dict of
            them), on its device, as many as it is to get.
        graph: time layers in a CUDA graph, which starts them without Python: for models that run
            so, as with `torch.compile(mode="reduce-overhead")`.

    Raises:
        UsageError: the model lies elsewhere, this torch has no such tensors, or no layer can be
            converted, and says why of each; or the example is none.
    """
    model = unwrapped(model)
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    left = {f"{name}.weight": why for name, m in layers.items() if (why := _refusal(m.weight))}
    if len(left) == len(layers):
        reasons = "; ".join(f"{name}: {why}" for name, why in left.items()) or "it has none"
        raise UsageError(f"no linear layer can be made semi-structured ({reasons})")
    if not hasattr(torch.sparse, "to_sparse_semi_structured"):  # older than 2.1
        raise UsageError(
            f"torch {torch.__version__} has no semi-structured tensors; install a newer one"
        )
    original, model = model, copied(model)
    names = [name for name in layers if f"{name}.weight" not in left]
    dense = {name: module for name, module in model.named_modules() if name in names}
    seen = {} if example is None else _inputs(model, dense, example)
    times: dict[str, tuple[float, float]] = {}
    for name, layer in dense.items():
        weight = f"{name}.weight"
        if example is not None and name not in seen:
            left[weight] = "the example does not reach it"
            continue
        sparse = _converted(layer)
        if name in seen:
            x = seen.pop(name)
            runs = [partial(layer, x), partial(sparse, x)]
            before, after = cuda_milliseconds(runs, graph=graph)
            times[weight] = before, after
            if after >= before:
                left[weight] = f"dense is as fast: {before:.3f} ms against {after:.3f} ms"
                continue
        layer.weight = sparse.weight
    converted = tuple(f"{name}.weight" for name in names if f"{name}.weight" not in left)
    if example is None or not converted:
        return SemiStructured(model, converted, left, times)
    with evaluating(original), evaluating(model):
        pair = [partial(run, original, example), partial(run, model, example)]
        before, after = cuda_milliseconds(pair, graph=graph)
    if after >= before:
        why = f"the model is as fast dense: {before:.3f} ms against {after:.3f} ms"
        left |= dict.fromkeys(converted, why)
        model, converted = copied(original), ()
    return SemiStructured(model, converted, left, times, (before, after))


def _converted(layer: nn.Module) -> nn.Linear:
    assert isinstance(layer, nn.Linear)
    sparse = copy.copy(layer)  # a linear layer of its own, with the same bias
    sparse._parameters = dict(layer._parameters)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The PyTorch API of SparseSemiStructuredTensor")
        weight = torch.sparse.to_sparse_semi_structured(layer.weight.detach().contiguous())
    sparse.weight = nn.Parameter(weight, requires_grad=False)
    return sparse


def _inputs(
    model: nn.Module, layers: Mapping[str, nn.Module], example: Inputs
) -> dict[str, Tensor]:
    """Return what each layer gets: name → the input with the most rows, where it is used often."""
    seen: dict[str, Tensor] = {}

    def look(
        name: str, _: nn.Module, given: tuple[Tensor, ...], by_name: dict[str, Tensor]
    ) -> None:
        x = given[0] if given else by_name["input"]
        if name not in seen or x.numel() > seen[name].numel():
            seen[name] = x.detach().clone()

    hooks = [
        m.register_forward_pre_hook(partial(look, name), with_kwargs=True)
        for name, m in layers.items()
    ]
    with hooked(hooks), undisturbed(model), torch.inference_mode():
        run(model, example)
    return seen


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
