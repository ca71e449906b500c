"""Secateur itself: not a peer, so it names none."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any


def load(
    model: str,
    feeds: dict[str, Any],
    threads: int,
    axes: dict[str, int],
    settings: dict[str, Any],
) -> tuple[Any, Callable[[dict[str, Any]], list[Any]], str]:
    """See the package; what does not compute in float32 says so in its info."""
    engine = import_module("secateur.compiler.runtime").Engine.load(model, threads=threads)

    def call(feeds: dict[str, Any]) -> list[Any]:
        found = engine(*feeds.values())
        return list(found) if isinstance(found, (tuple, list)) else [found]

    return engine, call, engine.info.get("precision", "f32")
