"""States that modules are in for a while, with every module's own put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Put models into evaluation mode inside the block; also where it raises, modes come back."""
    modes = {module: module.training for model in models for module in model.modules()}
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def without_cache(model: nn.Module) -> Iterator[None]:
    """Let a decoder of transformers keep no keys and values of its tokens inside the block.

    Its configs say so, known without an import by their `use_cache`.
    """
    held: list[Any] = [getattr(module, "config", None) for module in model.modules()]
    configs = [config for config in held if getattr(config, "use_cache", None) is True]
    for config in configs:
        config.use_cache = False
    try:
        yield
    finally:
        for config in configs:
            config.use_cache = True
