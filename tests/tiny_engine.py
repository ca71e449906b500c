"""The tiny network, built for this machine."""

from __future__ import annotations

from typing import Any

import pytest

import tiny_network as tiny
from secateur.compiler import artifact, toolchain
from secateur.compiler.targets import Target
from secateur.errors import CompileError


def native() -> Target:
    """Return this machine, or skip where it has no compiler."""
    try:
        return toolchain.native()
    except CompileError as error:
        pytest.skip(str(error))


def compiled(target: Target, weights: bytes | None = None, **options: Any) -> bytes:
    """Build the tiny network; options are those of `tiny.model`."""
    network = tiny.network(fixed=options.get("fixed", False))
    stored = tiny.stored(options.get("section", 0)) if weights is None else weights
    library = toolchain.build(tiny.model(**options), stored, network, target)
    return artifact.pack(library, target, network)
