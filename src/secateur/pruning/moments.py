"""What a layer reads and should give: second moments of its inputs, and with its wanted outputs.

Both networks run on the same images; the pruned one gives the inputs, the dense one the outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from secateur.model.inputs import Inputs, run
from secateur.pruning.calibration import Calibration
from secateur.pruning.layers import Convolution, groups_of, read_by, weight_of

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_ADDITIONS = {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__iadd__, Tensor.__radd__}


@dataclass(slots=True)
class Seen:
    """What one pass showed of a layer; a layer that is used several times has several entries."""

    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    norms: list[nn.Module | None] = field(default_factory=list)
    """The batch norm that reads each output directly, if one does."""
    beside: list[Tensor | None] = field(default_factory=list)
    """What is added to the (normalised) output, as the shortcut of a residual block is."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Means over samples and positions, float64, for each group of a convolution.

    The last input is the constant 1, so that an intercept is solved for too.
    """

    inputs: Tensor
    """E[x xᵀ], [groups, d + 1, d + 1]."""
    cross: Tensor
    """E[x yᵀ], [groups, d + 1, outputs / groups]."""
    outputs: Tensor
    """E[y²], [groups, outputs / groups]."""
    norm: nn.Module | None
    """The pruned network's batch norm that alone reads this layer, if there is one."""
    samples: int


class _Enough(Exception):  # noqa: N818, as StopIteration
    """Ends a pass in which nothing is left to see."""


@contextmanager
def watched(model: nn.Module, layer: nn.Module) -> Iterator[Callable[[Inputs], Seen]]:
    """Give a function that runs the model on a batch and returns what it showed of the layer.

    The first pass runs to its end; the later ones stop where it had shown everything.
    """
    seen = Seen()
    passes = begun = last = 0  # modules begun in this pass, and when something was last seen

    def note() -> None:
        nonlocal last
        last = max(last, begun)

    adding = _Adding(seen, note)

    def begin(*_: object) -> None:
        nonlocal begun
        begun += 1
        if passes > 1 and begun > last:
            raise _Enough

    def keep(
        _: nn.Module, inputs: tuple[Any, ...], by_name: dict[str, Any], output: Tensor
    ) -> None:
        seen.inputs.append(read_by(inputs, by_name).clone())  # what follows may work in place
        seen.outputs.append(output.clone())
        seen.norms.append(None)
        seen.beside.append(None)
        adding.wanted.append(output)
        note()

    def normalise(norm: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        for at, given in enumerate(adding.wanted):
            if inputs and inputs[0] is given and seen.norms[at] is None:
                seen.norms[at] = norm
                adding.wanted[at] = output
                note()

    norms = [module for module in model.modules() if isinstance(module, _NORMS)]
    hooks = [layer.register_forward_hook(keep, with_kwargs=True)]
    hooks += [norm.register_forward_hook(normalise) for norm in norms]
    hooks += [module.register_forward_pre_hook(begin) for module in model.modules()]

    def look(batch: Inputs) -> Seen:
        nonlocal passes, begun
        passes, begun = passes + 1, 0
        for part in (seen.inputs, seen.outputs, seen.norms, seen.beside, adding.wanted):
            part.clear()
        with torch.inference_mode(), adding, suppress(_Enough):
            run(model, batch)
        return seen

    try:
        yield look
    finally:
        for hook in hooks:
            hook.remove()


class _Adding(TorchFunctionMode):
    """Sees what is added to a wanted tensor."""

    def __init__(self, seen: Seen, note: Callable[[], None]) -> None:
        super().__init__()
        self._seen, self._note = seen, note
        self.wanted: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func in _ADDITIONS and len(args) > 1:
            for at, wanted in enumerate(self.wanted):
                for one, other in ((args[0], args[1]), (args[1], args[0])):
                    if one is wanted and isinstance(other, Tensor) and other.shape == one.shape:
                        # in place, the sum would overwrite it
                        self._seen.beside[at] = other.clone()
                        self._note()
        return func(*args, **(kwargs or {}))


def moments(
    pruned: nn.Module,
    dense: nn.Module,
    path: str,
    calibration: Calibration,
    *,
    positions: int,
    seed: int,
) -> Moments | None:
    """Return a layer's moments over some batches, or None where the pass never reaches it.

    Wanted of the pruned layer is what the dense one gives; where its normalised output is added
    to something else, then also what that other branch lacks: the sum is what is read on.

    Args:
        pruned: gives the inputs; in evaluation mode.
        dense: gives the outputs; in evaluation mode.
        path: of the layer in both.
        calibration: inputs of the networks, and the precision that they run in.
        positions: how many positions of each image's plane are looked at, at most, in a
            convolution; drawn at random, the same in both networks.
        seed: of these draws.
    """
    layer, other = pruned.get_submodule(path), dense.get_submodule(path)
    weight, groups = weight_of(layer), groups_of(layer)
    width = weight[0].numel()
    per_group = weight.shape[0] // groups
    device = weight.device
    size = width + 1
    inputs = torch.zeros(groups, size, size, dtype=torch.float64, device=device)
    cross = torch.zeros(groups, size, per_group, dtype=torch.float64, device=device)
    outputs = torch.zeros(groups, per_group, dtype=torch.float64, device=device)
    samples, norms = 0, set[nn.Module | None]()
    generator = torch.Generator().manual_seed(seed)
    with watched(pruned, layer) as look_pruned, watched(dense, other) as look_dense:
        for batch in calibration.inputs:
            with calibration.precision():
                ours, theirs = look_pruned(batch), look_dense(batch)
            for use in range(len(ours.inputs)):
                norms.add(ours.norms[use])
                wanted = theirs.outputs[use] + _lacking(ours, theirs, use)
                x, y = _rows(layer, ours.inputs[use], wanted, positions, generator)
                x = F.pad(x, (0, 1), value=1.0)
                inputs += (x.transpose(1, 2) @ x).double()
                cross += (x.transpose(1, 2) @ y).double()
                outputs += y.square().sum(1).double()
                samples += x.shape[1]
    if not samples:
        return None
    norm = norms.pop() if len(norms) == 1 else None
    return Moments(inputs / samples, cross / samples, outputs / samples, norm, samples)


def _lacking(ours: Seen, theirs: Seen, use: int) -> Tensor | float:
    """Return what to add to a layer's output so that the sum behind it becomes the dense one."""
    here, there, norm = ours.beside[use], theirs.beside[use], ours.norms[use]
    if here is None or there is None:
        return 0.0
    lacking = there.float() - here.float()
    if norm is None:
        return lacking
    assert isinstance(norm, _NORMS)
    if norm.running_var is None:
        return 0.0
    slope = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        slope = slope * norm.weight
    # a channel that its norm all but shuts cannot make up for anything
    shut = slope.abs() < 0.1 * slope.abs().median()
    share = torch.where(shut, 0.0, 1 / torch.where(shut, 1.0, slope))
    return lacking * share.view(1, -1, *[1] * (lacking.dim() - 2))


def _rows(
    layer: nn.Module, x: Tensor, y: Tensor, positions: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return inputs [groups, rows, d] and wanted outputs [groups, rows, outputs / groups]."""
    if not isinstance(layer, Convolution):
        return x.reshape(1, -1, x.shape[-1]).float(), y.reshape(1, -1, y.shape[-1]).float()
    plane = y.shape[2:]
    count = math.prod(plane)
    chosen = torch.arange(count)
    if positions < count:
        chosen = torch.randperm(count, generator=generator)[:positions]
    chosen = chosen.to(x.device)
    n, groups = len(x), layer.groups
    seen = windows(layer, x, plane, chosen)  # [N, C, kernel, positions]
    seen = seen.reshape(n, groups, -1, len(chosen)).permute(1, 0, 3, 2)
    wanted = y.reshape(n, groups, -1, count)[..., chosen].permute(1, 0, 3, 2)
    rows = n * len(chosen)
    return seen.reshape(groups, rows, -1).float(), wanted.reshape(groups, rows, -1).float()


def windows(layer: Convolution, x: Tensor, plane: torch.Size, chosen: Tensor) -> Tensor:
    """Return what the kernel sees at the chosen output positions, [N, C, kernel, positions]."""
    padding = layer._reversed_padding_repeated_twice
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, padding, mode=mode)
    sizes = x.shape[2:]
    address = torch.zeros(1, 1, dtype=torch.long, device=x.device)
    where = torch.unravel_index(chosen, plane)
    steps = torch.cartesian_prod(*[torch.arange(k, device=x.device) for k in layer.kernel_size])
    steps = steps.view(-1, len(plane))
    for axis, size in enumerate(sizes):
        begin = where[axis] * layer.stride[axis]
        offset = steps[:, axis] * layer.dilation[axis]
        address = address * size + offset[:, None] + begin[None]
    return x.flatten(2)[:, :, address]
