"""The parameters of a model, by every name that they have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from secateur.errors import SecateurError, UsageError

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""The dtypes that weights and scores may have."""

LISTED = 20
"""How many names a message lists."""

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)


def parameters(model: nn.Module, names: Sequence[str]) -> dict[str, Tensor]:
    """Return name → parameter: the model's own tensors, not copies.

    Raises:
        UsageError: a name is not a parameter of the model.
    """
    model = unwrapped(model)
    found: dict[str, Tensor] = {}
    for name in names:
        try:
            found[name] = model.get_parameter(name)
        except AttributeError:
            raise UsageError(
                f"the model has no parameter {name!r}; names are those of model.named_parameters()"
            ) from None
    return found


def aliases(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return every parameter's name → all names it can be reached by, that one first.

    Names are those of `model.named_parameters()`, in its order: a tensor that layers share, or
    that belongs to a layer used in several places, is there once, under its first name.
    """
    found = [[name for name, _ in at] for at in places_of(unwrapped(model)).values()]
    return {names[0]: tuple(names) for names in found}


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module inside wrappers that put "module." before every name (DDP, EMA).

    `torch.compile` wraps too, and puts "_orig_mod." there.
    """
    while True:
        inner = getattr(model, "module" if isinstance(model, _WRAPPERS) else "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def device_of(model: nn.Module) -> torch.device:
    """Return the device that a model's parameters lie on; the CPU where it has none."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def places_of(model: nn.Module) -> dict[int, list[tuple[str, nn.Module]]]:
    """Return id of a parameter → every (name, owning module) it can be reached by."""
    places: dict[int, list[tuple[str, nn.Module]]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for leaf, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            name = f"{path}.{leaf}" if path else leaf
            places.setdefault(id(parameter), []).append((name, module))
    return places


def any_matches(names: Iterable[str], globs: Sequence[str]) -> bool:
    """Return whether a glob matches a name; `*` also matches dots."""
    return any(fnmatchcase(name, glob) for name in names for glob in globs)


def refuse_unmatched(
    globs: Iterable[str],
    names: Sequence[str],
    of: str,
    error: type[SecateurError] = UsageError,
) -> None:
    """Refuse a glob that matches no name: it is misspelt.

    Raises:
        SecateurError: of the given kind; names the glob, what it was given for, and the names.
    """
    for glob in globs:
        if not any_matches(names, [glob]):
            more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
            raise error(
                f"the glob {glob!r} of {of} matches no parameter; "
                f"the names are {', '.join(names[:LISTED])}{more}"
            )
