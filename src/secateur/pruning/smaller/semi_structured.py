"""2:4 weights on NVIDIA GPUs: torch's semi-structured tensors in place of dense ones."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
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
from secateur.pruning.layers import read_by, weight_name

SIZES = {torch.float16: (32, 64), torch.bfloat16: (32, 64), torch.int8: (16, 128)}
"""What rows and columns must be multiples of, by dtype: the limits of torch's kernels."""


@dataclass(frozen=True, eq=False)
class SemiStructured:
    """What `to_semi_structured` returns."""

    model: nn.Module
    """For inference: its converted weights take no gradient."""
    converted: tuple[str, ...]
    """Weights of linear layers; the GPU now skips half of each."""
    left: dict[str, str]
    """Weights of linear layers that stay dense: name → reason."""
    milliseconds: dict[str, tuple[float, float]]
    """With an example: name of the weight → time of its layer dense, and converted."""
    whole: tuple[float, float] | None = None
    """With an example, if layers were converted: time of the model dense, and converted."""


@checked(model=a(nn.Module, "a torch module"), example=TENSORS, graph=BOOL)
def to_semi_structured(
    model: nn.Module, *, example: Inputs | None = None, graph: bool = False
) -> SemiStructured:
    """Convert the linear layers of a model that was cut 2:4, in a copy, for inference.

    The GPU's sparse tensor cores do half of the multiplications, but torch takes half a millisecond
    to start each product, so small layers lose. With an example, every layer is timed on its inputs
    there and stays dense if that is as fast; then the whole model is timed in the same way.

    Args:
        model: on a CUDA device of compute capability 8.0 or newer, in float16 or bfloat16.
            Not changed.
        example: inputs as the model takes them (a tensor, several arguments, or a dict of
            them), on its device, in a batch as large as it will be used with.
        graph: time layers in a CUDA graph, which starts them without Python: for models that run
            in one, as with `torch.compile(mode="reduce-overhead")`.

    Raises:
        UsageError: no layer can be converted; says why for each. Or the example is not inputs of
            a model.
    """
    model = unwrapped(model)
    names, left = _convertible(model)
    small = copied(model)
    layers = {name: small.get_submodule(name) for name in names}
    seen = {} if example is None else _inputs(small, layers, example)
    times: dict[str, tuple[float, float]] = {}
    for name, layer in layers.items():
        weight, sparse = weight_name(name), _converted(layer)
        why = None
        if name in seen:
            x = seen.pop(name)
            times[weight], why = _timed(partial(layer, x), partial(sparse, x), graph)
        elif example is not None:
            why = "the example does not reach it"
        if why is None:
            layer.weight = sparse.weight
        else:
            left[weight] = why
    converted = tuple(weight for weight in map(weight_name, names) if weight not in left)
    if example is None or not converted:
        return SemiStructured(small, converted, left, times)
    with evaluating(model), evaluating(small):
        whole, why = _timed(partial(run, model, example), partial(run, small, example), graph)
    if why is not None:
        left |= dict.fromkeys(converted, f"the model as a whole: {why}")
        small, converted = copied(model), ()
    return SemiStructured(small, converted, left, times, whole)


def _convertible(model: nn.Module) -> tuple[list[str], dict[str, str]]:
    """Return the linear layers that can be converted, and why the weights of others cannot.

    Raises:
        UsageError: none can; says why for each.
    """
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    left = {weight_name(n): why for n, m in layers.items() if (why := _refusal(m.weight))}
    if len(left) == len(layers):
        reasons = "; ".join(f"{name}: {why}" for name, why in left.items()) or "it has none"
        raise UsageError(f"no linear layer can be made semi-structured ({reasons})")
    return [name for name in layers if weight_name(name) not in left], left


def _timed(
    dense: Callable[[], object], sparse: Callable[[], object], graph: bool
) -> tuple[tuple[float, float], str | None]:
    """Return the milliseconds of both, and why to stay dense if the sparse one is no faster."""
    before, after = cuda_milliseconds([dense, sparse], graph=graph)
    why = None if after < before else f"dense is as fast: {before:.3f} ms against {after:.3f} ms"
    return (before, after), why


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
    """Return name → the layer's input; of several, the largest."""
    seen: dict[str, Tensor] = {}

    def look(
        name: str, _: nn.Module, given: tuple[Tensor, ...], by_name: dict[str, Tensor]
    ) -> None:
        x = read_by(given, by_name)
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
        return f"{tuple(weight.shape)} are not multiples of {rows} and {columns}"
    return None


def is_two_of_four(weight: Tensor) -> bool:
    """Return whether every 4 consecutive weights along the inputs hold at most 2 non-zeros.

    Args:
        weight: [outputs, inputs].
    """
    if weight.shape[1] % 4:
        return False
    return bool(((weight.detach() != 0).reshape(len(weight), -1, 4).sum(2) <= 2).all())
