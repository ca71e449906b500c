"""Artifacts as they were measured: what a network costs to serve, beside what it can do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from secateur.errors import refuse_wrong, whole


def _positive(value: float) -> bool:
    return 0 < value < math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipped:
    """One network in one engine, every figure of which was measured, none estimated.

    Raises:
        UsageError: a figure cannot be one, such as a latency of 0; names it.
    """

    keep: float
    """Keep ratio, in (0, 1]; 1 is the uncut network."""
    criterion: str
    """By which it was cut; of a network that is not cut, `uncut`, or `as-fast` where it has fewer
    channels."""
    engine: str
    """What ran it: `secateur`, or a peer such as `onnxruntime-int8`."""
    precision: str
    """Of its arithmetic: fp32, bf16, int8, ..."""
    latency_ms: Mapping[int, float]
    """Batch size → milliseconds of one batch, the median over runs."""
    bytes: int
    """Of all files that it needs beside the engine's own library."""
    peak_memory: int
    """Bytes of resident memory at the most, of the process that ran it."""
    accuracy: float
    """The study's metric on test data, in its unit, as this engine computes it."""
    cost_per_million: float | None = None
    """US dollars per million examples, at the price of the machine; None: not measured."""
    energy_j: float | None = None
    """Joules per example; None: not measured."""
    certified: bool = False
    """Whether the study certifies this network at its keep ratio."""

    def __post_init__(self) -> None:
        figure = (_positive, "a positive number")
        unknown = (lambda v: v is None or 0 <= v < math.inf, "a number of at least 0, or None")
        refuse_wrong(
            self,
            ("keep", lambda v: 0 < v <= 1, "a keep ratio in (0, 1]"),
            (
                "latency_ms",
                lambda v: bool(v) and all(whole(n) and n > 0 and _positive(v[n]) for n in v),
                "batch sizes with positive milliseconds, such as {1: 0.5}",
            ),
            ("bytes", *figure),
            ("peak_memory", *figure),
            ("accuracy", math.isfinite, "a finite number"),
            ("cost_per_million", *unknown),
            ("energy_j", *unknown),
        )
