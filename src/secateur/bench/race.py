"""Engines timed in turn: a short burst each, round after round.

What else a machine does comes and goes; engines that run one after another are hit alike by it,
and the ratio of two of them within a round is far steadier than their times. Processes are not
stopped between their bursts: engines were seen to run at half their speed for a while after that.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from secateur.bench.energy import Energy
from secateur.bench.inputs import Array, extent
from secateur.bench.process import Process
from secateur.bench.result import Refusal, Step, Timing
from secateur.errors import CompileError
from secateur.machine import OtherProcesses, can_pin

AGREE = 0.02
"""Outputs in float32 that differ by more, relative to the largest, are not those of the same
network. Of other precisions only shapes must be the same, and every number must be finite."""

PAUSE = 0.1
"""Seconds between bursts: idle threads of ONNX Runtime were seen to spin for half of that."""

BUSY = 0.05
"""Part of the cores' time from which on other processes disturb a round."""

WARM = 0.25
"""Part of a burst that is run before it without being timed: others have used the caches."""


@dataclass(frozen=True, slots=True)
class Runner:
    """An engine that takes part."""

    name: str
    """In this comparison."""
    engine: str
    """A file of `engines`."""
    python: Path
    model: Path
    """What it loads."""
    bytes: int
    """Of that, with everything it refers to."""
    required: bool = False
    """Its failure is an error, not a refusal."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """For the engine's `load`."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a race at one batch size gave."""

    timings: list[Timing]
    refusals: list[Refusal]
    others: float | None
    """Part of the cores' time that other processes took in the rounds that count."""


@dataclass(frozen=True, slots=True)
class Race:
    """How engines are timed."""

    cores: Sequence[int]
    rounds: int = 20
    seconds: float = 0.2
    """Of each burst."""
    price: float | None = None
    progress: Callable[[str], None] = lambda _: None
    agree: bool = True
    """Engines run the same network, so their outputs must agree."""

    def run(
        self, runners: Sequence[Runner], feeds: Mapping[str, Array], axes: Mapping[str, int]
    ) -> Outcome:
        """Time all engines on one batch.

        While other processes are busy on these cores there are more rounds, up to twice as many;
        the quietest count.

        Args:
            runners: their outputs are compared with those of the first that computes in float32.
            feeds: input → array; the first axis is the batch.
            axes: name → extent of the model's dynamic axes.

        Raises:
            CompileError: a required engine fails.
        """
        batch = extent(feeds)
        loaded: list[_Ready] = []
        refusals = []
        with ExitStack() as stack:
            for runner in runners:
                self.progress(f"batch {batch}: loading {runner.name}")
                try:
                    process = Process(runner.name, runner.python, len(self.cores))
                    stack.enter_context(process)
                    loaded.append(load(runner, process, self.cores, feeds, axes))
                except CompileError as error:
                    if runner.required:
                        raise
                    refusals.append(Refusal(runner.name, batch, str(error)))
            ready = []
            for entry in loaded:
                if why := self._compare(entry, loaded):
                    if entry.runner.required:
                        raise CompileError(why)
                    refusals.append(Refusal(entry.runner.name, batch, why))
                else:
                    ready.append(entry)
            shares = self._rounds(ready, batch)
            kept = sorted(range(len(shares)), key=lambda i: shares[i] or 0.0)[: self.rounds]
            known = [share for i in kept if (share := shares[i]) is not None]
            timings = [entry.timing(batch, sorted(kept), self.price) for entry in ready]
            return Outcome(timings, refusals, sum(known) / len(known) if known else None)

    def _compare(self, entry: _Ready, loaded: Sequence[_Ready]) -> str | None:
        """Note how far an engine's outputs are from the reference's; say if it is too far."""
        reference = next((each for each in loaded if each.precision == "f32"), loaded[0])
        apart = difference(entry.outputs, reference.outputs)
        entry.difference = apart if np.isfinite(apart) else None
        limit = AGREE if entry.precision == "f32" else np.finfo(np.float64).max
        if apart <= limit or not self.agree or entry is reference:
            return None
        return (
            f"the outputs of {entry.runner.name} differ from those of {reference.runner.name} by "
            f"{apart:.2g} of the largest, so they do not run the same network"
        )

    def _rounds(self, ready: Sequence[_Ready], batch: int) -> list[float | None]:
        """Run all rounds; return what others took of each."""
        shares: list[float | None] = []
        quiet = 0
        while quiet < self.rounds and len(shares) < 2 * self.rounds:
            self.progress(f"batch {batch}: round {quiet + 1} of {self.rounds}")
            others = OtherProcesses(self.cores, [entry.process.number for entry in ready])
            for entry in ready:
                self._burst(entry, batch)
            shares.append(others.share())
            quiet += (shares[-1] or 0.0) <= BUSY
        return shares

    def _burst(self, entry: _Ready, batch: int) -> None:
        time.sleep(PAUSE)
        counters = Energy()
        before = counters.read()
        answer = entry.process.ask("run", seconds=self.seconds, warm=WARM * self.seconds)
        joules = counters.joules(before, counters.read())
        times = answer["nanoseconds"]
        entry.bursts.append(np.array(times) / 1e9)
        samples = batch * (len(times) + answer["warmed"])
        entry.joules.append(None if joules is None else joules / samples)


@dataclass(slots=True)
class _Ready:
    """An engine that has loaded the network, and its bursts so far."""

    runner: Runner
    process: Process
    outputs: list[Array]
    version: str
    precision: str
    load: float
    difference: float | None = None
    bursts: list[Array] = field(default_factory=list)
    joules: list[float | None] = field(default_factory=list)

    def timing(self, batch: int, rounds: Sequence[int], price: float | None) -> Timing:
        middle = np.median if batch == 1 else np.mean
        bursts = [self.bursts[i] for i in rounds]
        joules = [used for i in rounds if (used := self.joules[i]) is not None]
        runs = np.concatenate(bursts)
        return Timing(
            engine=self.runner.name,
            version=self.version,
            precision=self.precision,
            batch=batch,
            rounds=tuple(float(middle(burst)) for burst in bursts),
            p50=float(np.quantile(runs, 0.5)),
            p95=float(np.quantile(runs, 0.95)),
            runs=len(runs),
            load=self.load,
            memory=self.process.ask("memory")["peak"],
            file=self.runner.bytes,
            difference=self.difference,
            joules=float(np.median(joules)) if joules else None,
            price=price,
        )


def save(path: Path, feeds: Mapping[str, Array]) -> None:
    """Write arrays in their order: any text may be an input's name, but not a name in a file."""
    np.savez(path, *feeds.values())


def load(
    runner: Runner,
    process: Process,
    cores: Sequence[int],
    feeds: Mapping[str, Array],
    axes: Mapping[str, int],
) -> _Ready:
    """Let an engine load its network and run it once on a batch.

    Raises:
        CompileError: it cannot.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, path = Path(folder) / "inputs.npz", Path(folder) / "outputs.npz"
        save(given, feeds)
        answer = process.ask(
            "load",
            engine=runner.engine,
            model=str(runner.model),
            inputs=str(given),
            names=list(feeds),
            outputs=str(path),
            threads=len(cores),
            cpus=list(cores) if can_pin() else [],
            axes=dict(axes),
            settings=dict(runner.settings),
        )
        outputs = stored(path)
    return _Ready(
        runner, process, outputs, answer["version"], answer["precision"], answer["seconds"]
    )


def stored(path: Path) -> list[Array]:
    """Return the arrays that an engine's process left in a file."""
    with np.load(path) as file:
        return [file[name] for name in file.files]


def profile(
    runner: Runner, feeds: Mapping[str, Array], cores: Sequence[int], seconds: float = 2.0
) -> tuple[Step, ...]:
    """Return how long secateur's engine takes for each of its steps, on one batch.

    Raises:
        CompileError: the engine fails.
    """
    batch = extent(feeds)
    with Process(runner.name, runner.python, len(cores)) as process:
        load(runner, process, cores, feeds, {})
        answer = process.ask("profile", seconds=seconds)
    info = answer["info"]
    names = [name for name, _ in answer["steps"]]
    facts: list[dict[str, Any]] = [{}] * len(names)
    per = 1
    for steps, tile in zip(info["steps"], info["batches"], strict=True):
        if [step["name"] for step in steps] == names:  # the program that was run
            facts, per = steps, tile
    samples = batch if info["batched"] else info.get("samples", 1)
    return tuple(
        Step(
            batch,
            op=str(fact.get("op", name)),
            layer=str(fact.get("layer", "")),
            kernel=str(fact.get("kernel", "")),
            nonzeros=int(fact.get("nonzeros", 0)),
            macs=int(fact.get("sparse_macs", 0)) * samples // per,
            seconds=seconds,
        )
        for fact, (name, seconds) in zip(facts, answer["steps"], strict=True)
    )


def difference(found: Sequence[Array], expected: Sequence[Array]) -> float:
    """Return the largest difference of floating outputs, relative to the largest one expected.

    Infinite where shapes differ; NaN where a number is NaN in either.
    """
    if [array.shape for array in found] != [array.shape for array in expected]:
        return float("inf")
    gaps = [0.0]
    for a, b in zip(found, expected, strict=True):
        if a.size and np.issubdtype(b.dtype, np.floating):
            gaps.append(float(np.max(np.abs(a - b)) / (np.max(np.abs(b)) or 1.0)))
    return float(np.max(gaps))
