"""Engines that have a network ready: to be raced, and asked for its outputs, as often as wanted."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from secateur import machine
from secateur.bench import calibration, inputs, roofline
from secateur.bench.inputs import Array
from secateur.bench.process import Process
from secateur.bench.race import Race, Runner, load, profile, save, stored
from secateur.bench.result import Refusal, Result
from secateur.errors import CompileError, UsageError

MOST_SAMPLES = 1_000_000  # of a batch
MOST_ROUNDS = 10_000
LONGEST = 600  # seconds of a turn
EVALUATION = 3600
"""Seconds that an engine may take for the outputs of all samples."""


@dataclass(frozen=True, slots=True)
class Contest:
    """Engines, each with a network that it can load. `prepared` makes one."""

    name: str
    """Of the network."""
    runners: Sequence[Runner]
    """Ours first."""
    given: Sequence[inputs.Input]
    """The network's inputs."""
    cores: Sequence[int]
    """One thread runs on each."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Peer → why it cannot run the network at all."""
    notes: tuple[str, ...] = ()
    """As `Result.notes`."""
    compile: float | None = None
    """Seconds that compiling took, where it was done."""
    agree: bool = True
    """All run the same network: outputs that differ are refused."""

    def race(
        self,
        batches: Sequence[int] = (1, 64),
        *,
        rounds: int = 20,
        seconds: float = 0.2,
        layers: bool = False,
        price: float | None = None,
        progress: Callable[[str], None] = lambda _: None,
    ) -> Result:
        """Time every engine on random inputs, in turn; arguments as of `run`.

        Raises:
            UsageError: invalid arguments; the network's batch is fixed at another number.
            CompileError: one of our engines fails.
        """
        check(batches, rounds, seconds)
        race = Race(self.cores, rounds, seconds, price, progress, self.agree)
        drawn = [inputs.draw(self.given, batch) for batch in batches]
        outcomes = [
            race.run(self.runners, feeds, inputs.axes(self.given, batch))
            for batch, feeds in zip(batches, drawn, strict=True)
        ]
        shares = [outcome.others for outcome in outcomes if outcome.others is not None]
        refusals = [
            refusal
            for batch, outcome in zip(batches, outcomes, strict=True)
            for refusal in [
                *outcome.refusals,
                *(Refusal(peer, batch, why) for peer, why in self.refused.items()),
            ]
        ]
        result = Result(
            model=self.name,
            date=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            machine=machine.describe(),
            cores=tuple(self.cores),
            pinned=machine.can_pin(),
            rounds=rounds,
            seconds=seconds,
            timings=tuple(timing for outcome in outcomes for timing in outcome.timings),
            others=max(shares, default=None),
            refusals=tuple(refusals),
            notes=self.notes,
            compile=self.compile,
        )
        if layers:
            progress("timing each step")
            ours = self.runners[0]
            steps = [step for feeds in drawn for step in profile(ours, feeds, self.cores)]
            result = replace(result, steps=tuple(steps), roofline=roofline.measure(self.cores))
        return result

    def outputs(
        self, engine: str, samples: calibration.Samples, *, batch: int = 64
    ) -> tuple[Array, ...]:
        """Return what an engine's network gives for samples: for its accuracy on a test set.

        The engine runs in a process of its own, exactly as when it is timed.

        Args:
            engine: one that takes part, by its name in the result: "onnxruntime-int8".
            samples: of the only input, or input → samples, of the inputs' dtypes; the first axis
                counts them.
            batch: how many the engine is given at once; the last sample fills up the last batch.

        Returns:
            Each output of the network for all samples, in their order.

        Raises:
            UsageError: no such engine; samples that do not fit; a batch fixed at another number.
            CompileError: the engine cannot run the network, or its outputs are not one or several
                rows for each sample.
        """
        if engine in self.refused:
            raise CompileError(self.refused[engine])
        names = [runner.name for runner in self.runners]
        if engine not in names:
            raise UsageError(f"{engine!r} does not take part; choose of {', '.join(names)}")
        check((batch,))
        runner = self.runners[names.index(engine)]
        feeds = calibration.matching(self.given, samples, "samples")
        with (
            tempfile.TemporaryDirectory() as folder,
            Process(runner.name, runner.python, len(self.cores)) as process,
        ):
            drawn = inputs.draw(self.given, batch)
            load(runner, process, self.cores, drawn, inputs.axes(self.given, batch))
            path, out = Path(folder) / "inputs.npz", Path(folder) / "outputs.npz"
            save(path, feeds)
            process.ask(
                "evaluate", limit=EVALUATION, inputs=str(path), names=list(feeds), outputs=str(out)
            )
            return tuple(stored(out))


def check(batches: Sequence[int], rounds: int = 2, seconds: float = 1.0) -> None:
    """Refuse what cannot be raced.

    Raises:
        UsageError: invalid arguments.
    """
    if not batches or not 1 <= min(batches) <= max(batches) <= MOST_SAMPLES:
        raise UsageError(
            f"batch sizes must be at least 1, and at most {MOST_SAMPLES:,}, got {list(batches)}"
        )
    if not 2 <= rounds <= MOST_ROUNDS or not 0 < seconds <= LONGEST:
        raise UsageError(
            f"needs 2 rounds or more, at most {MOST_ROUNDS:,}, of some time, at most {LONGEST} "
            f"seconds, got {rounds} of {seconds:g} s"
        )
