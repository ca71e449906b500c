"""What is a constant to whoever traces a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def untraced() -> Iterator[None]:
    """Let torch compute what no input matters to; a trace then holds the outcome alone."""
    tracing: Any = torch._C  # what says so is not in its stubs
    state = tracing._get_tracing_state()
    tracing._set_tracing_state(None)
    try:
        yield
    finally:
        tracing._set_tracing_state(state)
