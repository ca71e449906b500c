"""States that modules are in for a while, with every module's own put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
    """Let a model of transformers keep nothing of its tokens for the next call inside the block.

    Its configs say that it does, known without an import by the names of `_KEPT`.
    """
    held: list[Any] = [getattr(module, "config", None) for module in model.modules()]
    found = [(c, name) for c in held for name in _KEPT if getattr(c, name, None) is True]
    for config, name in found:
        setattr(config, name, False)
    try:
        yield
    finally:
        for config, name in found:
            setattr(config, name, True)


_KEPT = ("use_cache", "use_mems_eval")
"""Keys and values of a decoder; hidden states of a recurrent one, which lie [tokens, samples]."""


@contextmanager
def experts_in_batches(model: nn.Module) -> Iterator[None]:
    """Let models of transformers run experts by plain products inside the block.

    Their own way, one product of groups as large as the tokens that each expert gets, is in no
    exporter. Configs say which, known without an import by `_experts_implementation`.
    """
    name = "_experts_implementation"
    held: list[Any] = [getattr(module, "config", None) for module in model.modules()]
    configs = {id(config): config for config in held if getattr(config, name, None) == "grouped_mm"}
    for config in configs.values():
        setattr(config, name, "batched_mm")
    try:
        yield
    finally:
        for config in configs.values():
            setattr(config, name, "grouped_mm")


@contextmanager
def without_autocast() -> Iterator[None]:
    """Let torch compute in the dtypes of tensors inside the block, whatever is around it."""
    import torch

    with ExitStack() as stack:
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextmanager
def uncompiled(model: nn.Module) -> Iterator[None]:
    """Let the parts of a model that `torch.compile` or `compile()` made fast run as they were.

    Inside the block their names have no "_orig_mod". Tracing does not go through what is compiled.
    """
    modules = list(model.modules())
    calls = [(part, call) for part in modules if (call := part._compiled_call_impl) is not None]
    wrapped = [
        (parent._modules, name, child)
        for parent in modules
        for name, child in parent._modules.items()
        if type(child).__name__ == "OptimizedModule"
    ]
    for part, _ in calls:
        part._compiled_call_impl = None
    for parts, name, child in wrapped:
        parts[name] = child._orig_mod  # type: ignore[union-attr, assignment]
    try:
        yield
    finally:
        for part, call in calls:
            part._compiled_call_impl = call
        for parts, name, child in wrapped:
            parts[name] = child
