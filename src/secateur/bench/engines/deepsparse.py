"""DeepSparse: the other engine that skips zeros."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

PACKAGES = ("deepsparse==1.8.0", "numpy==1.26.4")
PYTHONS = ((3, 10), (3, 11))
SKIPS_ZEROS = True
PEERS: dict[str, dict[str, Any]] = {"deepsparse": {}}


def load(
    model: str,
    feeds: dict[str, Any],
    threads: int,
    axes: dict[str, int],
    settings: dict[str, Any],
) -> tuple[Any, Callable[[dict[str, Any]], list[Any]], str]:
    """See the package."""
    os.environ["NM_DISABLE_ANALYTICS"] = "True"  # DeepSparse reports home unless told not to
    batch = len(next(iter(feeds.values())))
    engine = import_module("deepsparse").Engine(model, batch_size=batch, num_cores=threads)
    return engine, lambda feeds: engine.run(list(feeds.values())), "f32"
