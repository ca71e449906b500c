"""What each minute of the default study buys: its parts timed in a short one, and multiplied.

A study of one seed and two levels is run in this process with one thread, its passes over the
training data cut to some steps. What it took of the processor for a step of each network, and to
measure a cut, times how often the default study does that. So other work on the machine disturbs it
little; on two idle cores a study takes what is printed.

    python benchmarks/study_minutes.py
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from secateur import Study, classification
from secateur.study.options import Options
from secateur.study.part import Part
from secateur.study.plan import AS_FAST, AS_SMALL, START, Event, Item, Stage, Trial, epochs, items
from secateur.training import Recipe, train

LEVELS = (0.2, 0.02)


class Clock:
    """Notes what the processor took for each pass of a stage, and for each trial."""

    def __init__(self) -> None:
        self.taken: dict[Item, list[float]] = {}
        self._last = 0.0

    def __call__(self, event: Event) -> None:
        now = time.process_time()
        if event.kind == "epoch" or (event.kind == "done" and isinstance(event.item, Trial)):
            self.taken.setdefault(event.item, []).append(now - self._last)
        self._last = now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60, help="of a pass over the training data")
    parser.add_argument("--width", type=float, default=0.78, help="of the dense network as fast")
    asked = parser.parse_args()
    task = classification("cifar10", "dctnet", progress=False)
    options = Options(smaller=0.2)
    whole = task.data(torch.device("cpu")).batches_per_epoch(options.batch_size)
    data = Part(task.data(torch.device("cpu")), asked.steps / whole)
    short = replace(task, name="short", data=lambda device: data)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        study = Study(
            short, out=Path(folder) / "study", keep=LEVELS, seeds=1, epochs=2, gate_epochs=6.0
        )
        study.run(clock, workers=1)
    assert task.smaller is not None
    fast = task.smaller(asked.width)
    passes: list[float] = [time.process_time()]
    train(
        fast, data, Recipe(2), task.loss, seed=0,
        watch=lambda epoch: passes.append(time.process_time()),
    )  # fmt: skip

    def step(name: str) -> float:
        """Return the milliseconds of a step, as a mean over a stage."""
        stages = [item for item in clock.taken if isinstance(item, Stage) and item.name == name]
        stage = min(stages, key=lambda stage: stage.keep)  # it has the most passes
        taken = clock.taken[stage]
        if name in (START, AS_SMALL):  # the first pass prepares kernels, later ones have a teacher
            return 1000 * taken[1] / asked.steps
        return 1000 * sum(taken) / (epochs(study.spec.options, stage) * asked.steps)

    steps = {name: step(name) for name in (START, "uncut", "gate", "magnitude", AS_SMALL)}
    steps[AS_FAST] = 1000 * (passes[2] - passes[1]) / asked.steps
    trial = statistics.median(
        taken[0] for item, taken in clock.taken.items() if isinstance(item, Trial)
    )
    planned = list(items(options, tuple(range(options.seeds)), matched=True))
    print("| what | ms a step | minutes of a core | on two cores |\n|---|---|---|---|")
    total = 0.0
    for name, each in steps.items():
        stages = [item for item in planned if isinstance(item, Stage) and item.name == name]
        minutes = sum(epochs(options, stage) for stage in stages) * whole * each / 60_000
        total += minutes
        print(f"| {name} | {each:.0f} | {minutes:.1f} | {minutes / 2:.1f} |")
    by: dict[str, int] = {}
    for item in planned:
        if isinstance(item, Trial):
            what = f"{item.criterion}, {item.recovery}"
            by[what] = by.get(what, 0) + 1
    for what, count in by.items():
        total += count * trial / 60
        print(f"| {count} cuts: {what} | | {count * trial / 60:.1f} | {count * trial / 120:.1f} |")
    print(f"| all, {trial:.1f} s a cut | | {total:.1f} | {total / 2:.1f} |")


if __name__ == "__main__":
    main()
