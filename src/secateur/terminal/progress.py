"""What a study shows while it runs: phases, the level, time left."""

from __future__ import annotations

import time
from statistics import fmean
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from secateur.console import Words, spinner
from secateur.errors import printable
from secateur.study.plan import Event, Stage, Trial, epochs, plan
from secateur.study.report.units import Units
from secateur.study.spec import Spec

TRIAL_IN_EPOCHS = 0.3  # a first guess of what a trial costs, until some have been timed


class StudyProgress:
    """A live line on a terminal, and plain lines in a log; an observer for `Study.run`."""

    def __init__(self, spec: Spec, console: Console) -> None:
        self._spec, self._console = spec, console
        items = list(plan(spec))
        self._epochs = {item: epochs(spec, item) for item in items}
        self._trials = sum(isinstance(i, Trial) for i in items)
        self._epoch_seconds: list[float] = []
        self._trial_seconds: list[float] = []
        self._found = 0
        self._begun = time.perf_counter()
        self._bar = Progress(
            SpinnerColumn(spinner(console)),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._line = self._bar.add_task("starting", total=1.0, left="")

    def __enter__(self) -> StudyProgress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def __call__(self, event: Event) -> None:
        """Take in one event of the study."""
        item = event.item
        if event.kind == "found":
            self._found += 1
        elif event.kind == "epoch" and event.epoch:
            self._epoch_seconds.append(event.epoch.seconds)
            if not self._console.is_terminal:
                self._say(f"  epoch {event.epoch.epoch}: loss {event.epoch.loss:.3f}")
        elif event.kind == "begin" and self._found:
            self._say(f"resuming: {self._found} items were done before")
            self._found = 0
        if event.kind == "begin" and isinstance(item, Stage):
            self._say(f"seed {item.seed}: {_describe(item)}")
        if event.kind == "epoch":
            self._epochs[item] = max(self._epochs[item] - 1, 0)
        elif event.kind != "begin":
            self._epochs[item] = 0
            if isinstance(item, Trial):
                self._trials -= 1
                if event.kind == "done" and event.record:
                    if not epochs(self._spec, item):
                        self._trial_seconds.append(event.record["seconds"])
                    self._tell(item, event.record["metrics"]["test"])
        self._update(item)

    def _tell(self, trial: Trial, value: float) -> None:
        if trial.recovery != "none":
            units = Units.chosen(
                str(self._spec.metric["unit"]),
                self._spec.options.margin or 1.0,
                bool(self._spec.metric["higher_is_better"]),
            )
            self._say(f"  seed {trial.seed}: {_describe(trial)}: {units.value(value)}")

    def _say(self, text: str) -> None:
        self._console.print(Words(text))

    def _update(self, item: Stage | Trial) -> None:
        spent = time.perf_counter() - self._begun
        left = self._seconds_left()
        shown = f"{(left or 0) / 60:.0f} min" if (left or 0) >= 90 else f"{left or 0:.0f} s"
        self._bar.update(
            self._line,
            description=printable(f"seed {item.seed}: {_describe(item)}"),
            completed=spent / (spent + left) if left is not None else 0.0,
            left=f"{shown} left" if left else "",
        )

    def _seconds_left(self) -> float | None:
        if not self._epoch_seconds and not self._trial_seconds:
            return None
        epoch = fmean(self._epoch_seconds or [0.0])
        trial = fmean(self._trial_seconds or [0.0]) or TRIAL_IN_EPOCHS * epoch
        return sum(self._epochs.values()) * epoch + self._trials * trial


def _describe(item: Stage | Trial) -> str:
    if isinstance(item, Stage):
        return {
            "train": "phase 1, training with all weights",
            "control": "control, training on with all weights",
            "gates": "phase 2, learning the gates through the cut",
        }[item.name]
    if item.criterion == "dense":
        return f"dense, recovery {item.recovery}"
    return f"{item.criterion} at {100 * (1 - item.keep):g} % sparsity, recovery {item.recovery}"
