"""Passes that only look at a model: hooks come off, state is put back, misfits are one error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

from secateur.errors import UsageError
from secateur.model.modes import evaluating


@contextmanager
def hooked(hooks: Iterable[RemovableHandle]) -> Iterator[None]:
    """Take hooks off at the end of the block, also if it raises."""
    hooks = list(hooks)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode inside the block, and put back what a pass may change.

    That is modes, buffers and the states of torch's random generators. Inside, torch's fast path
    for attention is off: it hides several operators in one.
    """
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count()) if used else ()
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with evaluating(model), torch.random.fork_rng(devices):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, name, buffer, before in buffers:
            module._buffers[name] = buffer  # a pass may have put another in its place
            if not buffer.is_meta and not torch.equal(buffer, before):
                buffer.copy_(before)


_MISFITS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError)
"""What a model, or a loss, raises for what it does not take."""


@contextmanager
def refusing(what: str, hint: str = "") -> Iterator[None]:
    """Turn what a model, or a loss, raises for what it does not take into one error.

    Raises:
        UsageError: `what`, the original message, and the hint.
    """
    try:
        yield
    except UsageError:
        raise
    except _MISFITS as error:
        raise UsageError(f"{what}: {error}{hint}") from error


def decomposed(
    mode: TorchDispatchMode, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """Run an operator as its parts, each of which the mode sees.

    Returns:
        What it gives, or NotImplemented where it has no parts.
    """
    if not func._can_decompose():
        return NotImplemented
    with mode:
        return func.decompose(*args, **kwargs)
