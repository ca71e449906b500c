"""What a benchmark found: frozen values, ready for JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from secateur.bench.roofline import Roofline


@dataclass(frozen=True, slots=True)
class Timing:
    """One engine at one batch size."""

    engine: str
    """Its name in this comparison: of a peer, or of one of the networks compared with peers."""
    version: str
    precision: str
    """What it said that it computes in, once it was loaded: "f32", "bf16", "int8 (QDQ)"."""
    batch: int
    rounds: tuple[float, ...]
    """Seconds for one whole batch, in each round: the median of its runs at batch 1, which is
    latency, and the mean at larger batches, which is throughput."""
    p50: float
    """Seconds for one whole batch: median of all runs of all rounds."""
    p95: float
    runs: int
    load: float
    """Seconds until the engine was ready to run."""
    memory: int | None
    """Most bytes that its process, Python and numpy included, ever held."""
    file: int
    """Bytes of what it loaded."""
    difference: float | None
    """Largest difference of its outputs from those of the first engine that computes in float32
    (the first of all where none does), relative to the largest output; 0 for that one itself. None
    where outputs cannot be compared, which is refused unless networks may differ."""
    joules: float | None = None
    """For one sample, of the whole processor package; None where the machine does not tell."""
    price: float | None = None
    """Of an hour of this machine, in any currency."""

    @property
    def throughput(self) -> float:
        """Samples a second: the median of the rounds."""
        return self.batch / float(np.median(self.rounds))

    @property
    def cost(self) -> float | None:
        """Price of a million samples: price an hour / 3600 / throughput · 10⁶; an estimate."""
        return None if self.price is None else self.price / 3600 / self.throughput * 1e6


@dataclass(frozen=True, slots=True)
class Speedup:
    """How many times as fast as another engine, from the rounds in which both ran in turn."""

    over: str
    batch: int
    median: float
    low: float
    """10 % of the rounds are below it."""
    high: float
    """10 % of the rounds are above it."""

    @classmethod
    def of(cls, mine: Timing, other: Timing) -> Speedup:
        """Compare two engines' rounds, pair by pair."""
        ratios = np.array(other.rounds) / np.array(mine.rounds)
        low, median, high = (float(np.quantile(ratios, q)) for q in (0.1, 0.5, 0.9))
        return cls(other.engine, mine.batch, median, low, high)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of secateur's program for a batch size."""

    batch: int
    op: str
    layer: str
    kernel: str
    """sparse, dense, or empty: a step without weights."""
    nonzeros: int
    """Weights that are not zero."""
    macs: int
    """Multiply-adds with those weights, for one whole batch."""
    seconds: float
    """For one whole batch; median."""

    @property
    def speed(self) -> float:
        """Operations a second on the non-zeros, two a multiply-add."""
        return 2 * self.macs / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """An engine that could not be measured, and why."""

    engine: str
    batch: int
    why: str


@dataclass(frozen=True, slots=True)
class Result:
    """Everything one benchmark measured, with what it was measured on."""

    model: str
    date: str
    machine: dict[str, Any]
    cores: tuple[int, ...]
    """One thread ran on each."""
    pinned: bool
    rounds: int
    seconds: float
    """Of each engine's burst in each round."""
    timings: tuple[Timing, ...]
    """Ours, or else the first engine's, comes first at each batch size."""
    others: float | None = None
    """Part of the cores' time that other processes took, at the batch size where they took most;
    None where the system does not tell."""
    refusals: tuple[Refusal, ...] = ()
    notes: tuple[str, ...] = ()
    """How the quantised networks were made, and what they are good for."""
    steps: tuple[Step, ...] = ()
    roofline: Roofline | None = None
    compile: float | None = None
    """Seconds to compile the network, where this run did."""

    @property
    def threads(self) -> int:
        """How many threads every engine used."""
        return len(self.cores)

    @property
    def batches(self) -> tuple[int, ...]:
        """The batch sizes that were measured."""
        return tuple(dict.fromkeys(timing.batch for timing in self.timings))

    @property
    def speedups(self) -> tuple[Speedup, ...]:
        """Of the first engine over each other, at each batch size."""
        return tuple(
            Speedup.of(first, other)
            for batch in self.batches
            for first, *others in [self.at(batch)]
            for other in others
        )

    @property
    def losses(self) -> tuple[Speedup, ...]:
        """Where the first engine is slower."""
        return tuple(speedup for speedup in self.speedups if speedup.median < 1)

    def at(self, batch: int) -> tuple[Timing, ...]:
        """Return the timings of one batch size."""
        return tuple(timing for timing in self.timings if timing.batch == batch)

    def worst(self, batch: int, over: Sequence[str]) -> Speedup | None:
        """Return the speed-up over the best of some engines; None if none of them was measured."""
        found = [s for s in self.speedups if s.batch == batch and s.over in over]
        return min(found, key=lambda speedup: speedup.median, default=None)

    def json(self) -> str:
        """Return `document` as text."""
        return json.dumps(self.document(), indent=2)

    def document(self) -> dict[str, Any]:
        """Return all of it, with what follows from it, as JSON values."""
        content = asdict(self)
        for row, timing in zip(content["timings"], self.timings, strict=True):
            row |= {"throughput": timing.throughput, "cost": timing.cost}
        for row, step in zip(content["steps"], self.steps, strict=True):
            row["speed"] = step.speed
        content["speedups"] = [asdict(speedup) for speedup in self.speedups]
        return content
