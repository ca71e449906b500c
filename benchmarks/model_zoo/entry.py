"""How a model of the list is made, and what it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

Inputs = Tensor | tuple[Tensor, ...] | dict[str, Tensor]


@dataclass(frozen=True)
class Entry:
    """One model: a small configuration of an architecture, with random weights."""

    family: str
    """Where its code comes from: transformers, timm, or the list itself."""
    make: Callable[[], nn.Module]
    inputs: Callable[[], Inputs]
    """Draws inputs of two samples."""


def picture(side: int = 32, channels: int = 3) -> Callable[[], Inputs]:
    return lambda: torch.randn(2, channels, side, side)


def of_transformers(
    kind: str, inputs: Callable[[], Inputs], config: str = "", **settings: Any
) -> Entry:
    """Return a model class of transformers with a configuration of its own class, or the named."""

    def make() -> nn.Module:
        library = import_module("transformers")
        name = config or next(
            kind.removesuffix(end) + "Config"
            for end in ("ForConditionalGeneration", "LMHeadModel", "ForCausalLM", "Model", kind)
            if kind.endswith(end)
        )
        model: nn.Module = getattr(library, kind)(getattr(library, name)(**settings))
        return model

    return Entry("transformers", make, inputs)


def timm() -> Any:
    """Return the package timm, which imports torchvision, and uses of it no operator of its own.

    Where that was built for another torch, with a GPU say, it lacks those, and cannot be imported
    before the two that it describes have names.
    """
    try:
        import_module("torchvision")
    except RuntimeError:
        names = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            names.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        KEPT.append(names)
    return import_module("timm")


KEPT: list[torch.library.Library] = []
"""A name is gone with its library."""


def of_timm(name: str, side: int = 64, **settings: Any) -> Entry:
    """Return a network of timm, of few classes."""

    def make() -> nn.Module:
        model: nn.Module = timm().create_model(name, num_classes=8, **settings)
        return model

    return Entry("timm", make, picture(side))


def of_timm_class(
    place: str,
    side: int = 64,
    objects: Mapping[str, tuple[str, dict[str, Any]]] = MappingProxyType({}),
    **settings: Any,
) -> Entry:
    """Return a network by its class, "module.Class", where timm's short name fixes the widths.

    `objects` are arguments that are objects themselves: (class in the module, its arguments).
    """

    def make() -> nn.Module:
        module, _, name = place.partition(".")
        timm()
        library = import_module(f"timm.models.{module}")
        given = {key: getattr(library, kind)(**more) for key, (kind, more) in objects.items()}
        model: nn.Module = getattr(library, name)(num_classes=8, **settings, **given)
        return model

    return Entry("timm", make, picture(side))
