"""Magnitude times the size of the activations that the weight reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import UsageError
from secateur.model.inputs import run
from secateur.model.modes import evaluating
from secateur.model.parameters import parameters, unwrapped
from secateur.model.passes import hooked
from secateur.pruning.calibration import Calibration
from secateur.pruning.layers import Convolution, by_outputs, is_layer, read_by
from secateur.pruning.moments import windows
from secateur.pruning.products import mean_squares

NEEDS = "inputs"
SCOPE = "row"


def scores(
    model: nn.Module,
    names: Sequence[str],
    *,
    seed: int = 0,
    calibration: Calibration | None = None,
) -> dict[str, Tensor]:
    """Return |w| * √E[x²], float32, where x is what the weight is multiplied by.

    The mean goes over samples and positions. In a convolution every weight has an x of its own:
    its channel, seen through its place in the kernel. Source: Sun et al. 2023, arXiv:2306.11695,
    which ranks within each output, as scope "row" does; a global order compares the contributions
    |w x| of all layers. A layer that runs several times, or shares its weight, counts with all its
    inputs. `seed` is not used.

    The weights of attention, recurrent layers and experts are looked for in the products of
    matrices that the network computes, in a pass of its own in the parameters' precision. An
    expert that no sample is sent to scores 0.

    Raises:
        UsageError: a parameter is neither the weight of a linear or convolutional layer that the
            network runs nor in a product of matrices; names it.
    """
    assert calibration is not None
    model = unwrapped(model)
    weights = parameters(model, names)
    wanted = {id(weight) for weight in weights.values()}
    layers = [m for m in _layers(model) if id(m.weight) in wanted]
    owners = {id(layer.weight): layer for layer in layers}
    others = {n: weight for n, weight in weights.items() if id(weight) not in owners}
    seen = mean_squares(model, others, calibration.inputs) if others else {}
    unknown = [name for name in others if name not in seen]
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise UsageError(
            "criterion 'wanda' knows the inputs of layers and of products of matrices, but the "
            f"network has no such of {unknown[0]!r}{more}; leave it out with exclude={unknown} "
            "of prunable, or choose another criterion"
        )
    total: dict[int, Tensor] = {}
    count: dict[int, int] = {}

    def look(
        layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Tensor
    ) -> None:
        key = id(layer.weight)
        x = read_by(inputs, named)
        squares, positions = _squares(layer, x.float(), output.shape[2:])
        total[key] = total[key] + squares if key in total else squares
        count[key] = count.get(key, 0) + positions

    hooks = hooked(layer.register_forward_hook(look, with_kwargs=True) for layer in layers)
    if layers:
        with hooks, evaluating(model), torch.no_grad(), calibration.precision():
            for batch in calibration.inputs:
                run(model, batch)
    result: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if name in seen:
            result[name] = weight.detach().abs().float() * seen[name].sqrt()
            continue
        if not count.get(id(weight)):
            raise UsageError(
                f"criterion 'wanda' looks at activations, but the network does not run {name!r}; "
                f"leave it out with exclude=[{name!r}] of prunable"
            )
        norm = (total[id(weight)] / count[id(weight)]).sqrt()
        groups, layer = norm.shape[0], owners[id(weight)]
        size = by_outputs(layer, weight.detach().abs().float())
        flat = size.reshape(groups, size.shape[0] // groups, -1)
        scored = (flat * norm[:, None]).reshape(size.shape)
        result[name] = by_outputs(layer, scored).contiguous()
    return result


def _layers(model: nn.Module) -> list[nn.Module]:
    """Return the layers that are run as modules and own their weight.

    Attention computes its output projection itself; a parametrized weight is no parameter, and
    reading it may change what it is computed from.
    """
    inside = {id(m.out_proj) for m in model.modules() if isinstance(m, nn.MultiheadAttention)}
    return [
        module
        for module in model.modules()
        if is_layer(module) and id(module) not in inside
        if any(name == "weight" for name, _ in module.named_parameters(recurse=False))
    ]


def _squares(layer: nn.Module, x: Tensor, plane: torch.Size) -> tuple[Tensor, int]:
    """Return Σ x² over samples and positions, [groups, d], and how many terms each sum has."""
    if not isinstance(layer, Convolution):
        rows = x.reshape(-1, x.shape[-1])
        return rows.square().sum(0)[None], len(rows)
    summed = x.square().sum(0, keepdim=True)
    places = torch.arange(plane.numel(), device=x.device)
    seen = windows(layer, summed, plane, places).sum(3)  # [1, C, kernel]
    return seen.reshape(layer.groups, -1), len(x) * len(places)
