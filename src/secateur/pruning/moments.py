"""Second moments of a layer's inputs and of the outputs that it should have.

Both networks run on the same images: the inputs are the pruned one's, the outputs the dense one's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from secateur.model.inputs import Inputs, run
from secateur.model.inputs import size as samples_of
from secateur.model.passes import hooked
from secateur.pruning.calibration import Calibration
from secateur.pruning.layers import Convolution, groups_of, read_by, weight_of

Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d

_ADDITIONS = {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__iadd__, Tensor.__radd__}


@dataclass(slots=True)
class Use:
    """What one pass showed of one use of a layer."""

    inputs: Tensor
    outputs: Tensor
    norm: Norm | None = None
    """The batch norm that reads the output directly, if there is one."""
    beside: Tensor | None = None
    """What is added to the (normalised) output, such as the shortcut of a residual block."""


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
    norms: tuple[Norm, Norm] | None
    """The batch norm that alone reads this layer, in the pruned network and in the dense one."""
    samples: int


class _Enough(Exception):  # noqa: N818, as StopIteration
    """Ends a pass when nothing is left to see."""


class _Watch(TorchFunctionMode):
    """Sees a layer's inputs and outputs, the norm behind it, and what is added to its output.

    It does so until its hooks are taken off.
    """

    def __init__(self, model: nn.Module, layer: nn.Module) -> None:
        super().__init__()
        self._model = model
        self._uses: list[Use] = []
        self._given: list[Tensor] = []  # by each use: its output, or what its norm gives
        # modules begun in this pass, and how many had when something was last seen
        self._passes = self._begun = self._last = 0
        self.hooks: list[RemovableHandle] = [
            layer.register_forward_hook(self._keep, with_kwargs=True)
        ]
        for module in model.modules():
            self.hooks.append(module.register_forward_pre_hook(self._begin))
            if isinstance(module, Norm):
                self.hooks.append(module.register_forward_hook(self._normalise))

    def look(self, batch: Inputs) -> list[Use]:
        """Run the model on a batch; after the first, only until all has been seen."""
        self._passes, self._begun, self._uses, self._given = self._passes + 1, 0, [], []
        with torch.inference_mode(), self, suppress(_Enough):
            run(self._model, batch)
        return self._uses

    def _begin(self, *_: object) -> None:
        self._begun += 1
        if self._passes > 1 and self._begun > self._last:
            raise _Enough

    def _keep(
        self, _: nn.Module, inputs: tuple[Any, ...], by_name: dict[str, Any], output: Tensor
    ) -> None:
        # copies: what follows may work in place
        self._uses.append(Use(read_by(inputs, by_name).clone(), output.clone()))
        self._given.append(output)
        self._last = max(self._last, self._begun)

    def _normalise(self, norm: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        for at, use in enumerate(self._uses):
            if inputs and inputs[0] is self._given[at] and use.norm is None:
                assert isinstance(norm, Norm)
                use.norm, self._given[at] = norm, output
                self._last = max(self._last, self._begun)

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func in _ADDITIONS and len(args) > 1:
            for use, given in zip(self._uses, self._given, strict=True):
                for one, other in ((args[0], args[1]), (args[1], args[0])):
                    if one is given and isinstance(other, Tensor) and other.shape == one.shape:
                        use.beside = other.clone()  # in place, the sum would overwrite it
                        self._last = max(self._last, self._begun)
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
    """Return a layer's moments over some batches, or None if a pass never reaches it.

    The pruned layer should give what the dense one gives; where a router may have sent the two
    different samples, what the dense one gives for the pruned one's inputs. Where its normalised
    output is added to another branch, it should also make up for what that branch lacks, since the
    sum is read on.

    Args:
        pruned: the network that gives the inputs, in evaluation mode.
        dense: the network that gives the outputs, in evaluation mode.
        path: of the layer in both.
        calibration: inputs of the networks, and the precision to run in.
        positions: how many positions of each image's plane a convolution uses at most; drawn at
            random, the same in both networks.
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
    samples, norms = 0, set[tuple[Norm | None, Norm | None]]()
    generator = torch.Generator().manual_seed(seed)
    ours, theirs = _Watch(pruned, layer), _Watch(dense, other)
    with hooked([*ours.hooks, *theirs.hooks]):
        for batch in calibration.inputs:
            with calibration.precision():
                uses = list(zip(ours.look(batch), theirs.look(batch), strict=False))
            for here, there in uses:
                norms.add((here.norm, there.norm))
                if _apart(here, there, samples_of(batch)):
                    with torch.inference_mode(), calibration.precision():
                        wanted = other.forward(here.inputs)  # without the hooks
                else:
                    wanted = there.outputs + _lacking(here, there)
                x, y = _rows(layer, here.inputs, wanted, positions, generator)
                x = F.pad(x, (0, 1), value=1.0)
                inputs += (x.transpose(1, 2) @ x).double()
                cross += (x.transpose(1, 2) @ y).double()
                outputs += y.square().sum(1).double()
                samples += x.shape[1]
    if not samples:
        return None
    pruned_norm, dense_norm = norms.pop() if len(norms) == 1 else (None, None)
    both = (pruned_norm, dense_norm) if pruned_norm and dense_norm else None
    return Moments(inputs / samples, cross / samples, outputs / samples, both, samples)


def _apart(ours: Use, theirs: Use, samples: int) -> bool:
    """Return whether the two networks may have sent different samples through a layer.

    Experts read what a router sends them, and the cut moves the router: row by row the outputs
    are then of different samples.
    """
    x = ours.inputs
    rows = math.prod(x.shape[:-1])
    return x.shape != theirs.inputs.shape or bool(rows % samples)


def _lacking(ours: Use, theirs: Use) -> Tensor | float:
    """Return what to add to a layer's output so that the sum behind it is the dense one."""
    if ours.beside is None or theirs.beside is None:
        return 0.0
    lacking, norm = theirs.beside.float() - ours.beside.float(), ours.norm
    if norm is None:
        return lacking
    if norm.running_var is None:
        return 0.0
    slope = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        slope = slope * norm.weight
    # a channel that its norm nearly shuts cannot make up for anything
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
