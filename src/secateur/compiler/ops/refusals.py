"""Why some of ONNX's operators are not compiled, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_UNSIZED = (
    "how much it gives depends on the network's inputs, and an engine's shapes are fixed; end the "
    "model at this node's inputs, and do this on what the engine gives"
)
_RANDOM = "what it gives is random; export the model for inference, or make it an input"
_OLD_LOOP = "its form before operator set 9 is not known; export the model with a newer one"

REASONS: Mapping[str, str] = MappingProxyType({
    "Unique": _UNSIZED,
    **dict.fromkeys(
        ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
         "RandomUniformLike"),
        _RANDOM,
    ),
    **dict.fromkeys(("Loop", "Scan"), _OLD_LOOP),
})  # fmt: skip
"""By operator."""


def reason(op: str) -> str:
    """Return what the error says of an operator that has no meaning here."""
    known = REASONS.get(op)
    return f"operator {op} is not supported" + (f": {known}" if known else "")
