"""Which tensors may be cut, and a named reason for each that may not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType

import torch
from torch import Tensor, nn

from secateur.errors import UsageError

_LAYERS = (nn.Linear, nn.modules.conv._ConvNd)
_LOOKUPS = (nn.Embedding, nn.EmbeddingBag)


@dataclass(frozen=True, slots=True)
class Prunable:
    """The parameters of one model, told apart: `names` and `excluded` together are all."""

    names: tuple[str, ...]
    """Parameters whose weights may be cut, in the model's order."""
    excluded: Mapping[str, str]
    """Parameter name → why it is left whole."""


def prunable(
    model: nn.Module, *, include_first: bool = False, exclude: Sequence[str] = ()
) -> Prunable:
    """Say which parameters of a model may be cut.

    Weights of two or more dimensions may: linear, convolution, attention projections, recurrent
    layers, a module's own. Left whole are biases and norms, embedding tables, the first linear or
    convolution layer in registration order (few weights, and all that follows depends on it),
    frozen parameters, and what `exclude` names. A shared parameter counts once, by its first name.

    Args:
        include_first: cut the first layer too.
        exclude: glob patterns of parameter names, for example `head.*`.

    Raises:
        UsageError: no parameter is left to cut (says why for each), or a glob matches nothing.
    """
    parameters = dict(model.named_parameters())
    for glob in exclude:
        if not any(fnmatchcase(name, glob) for name in parameters):
            raise UsageError(
                f"the exclusion {glob!r} matches no parameter; there are {', '.join(parameters)}"
            )
    owners = {
        id(parameter): module
        for module in reversed(list(model.modules()))
        for parameter in module.parameters(recurse=False)
    }
    first = None if include_first else _first_layer(model)
    excluded: dict[str, str] = {}
    for name, parameter in parameters.items():
        matching = [glob for glob in exclude if fnmatchcase(name, glob)]
        reasons = (
            *_reasons(parameter, owners[id(parameter)]),
            ("first layer", parameter is first),
            *((f"excluded by {glob!r}", True) for glob in matching),
        )
        if reason := next((text for text, holds in reasons if holds), None):
            excluded[name] = reason
    names = tuple(name for name in parameters if name not in excluded)
    if not names:
        why = "; ".join(f"{name}: {reason}" for name, reason in excluded.items())
        raise UsageError(
            "the model has no prunable weight "
            f"({why or 'it has no parameters'}); include the first layer, or exclude less"
        )
    return Prunable(names, MappingProxyType(excluded))


def _first_layer(model: nn.Module) -> Tensor | None:
    layers = (module for module in model.modules() if isinstance(module, _LAYERS))
    return next((layer.weight for layer in layers), None)


def _reasons(parameter: nn.Parameter, owner: nn.Module) -> tuple[tuple[str, bool], ...]:
    """Return (reason, whether it holds) of everything that one tensor alone can tell."""
    return (
        ("on the meta device, without values", parameter.is_meta),
        ("stored sparse", parameter.layout != torch.strided),
        (f"of type {parameter.dtype}", not parameter.is_floating_point()),
        ("bias or norm", parameter.dim() < 2),
        ("embedding table", isinstance(owner, _LOOKUPS)),
        ("frozen", not parameter.requires_grad),
    )
