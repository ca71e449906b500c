"""What a study shows while it runs: what is done, by how many, and the time left."""

from __future__ import annotations

import time
from statistics import fmean
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from secateur.console import Words, spinner
from secateur.errors import printable
from secateur.study.executors.cluster import Cluster
from secateur.study.plan import (
    AS_FAST,
    SMALLER,
    START,
    UNCUT,
    Event,
    Item,
    Stage,
    Trial,
    epochs,
    items,
)
from secateur.study.report.units import Units, counted, duration
from secateur.study.spec import Spec

TRIAL_IN_EPOCHS = 0.15  # a first guess of what a trial costs, until some have been timed
LATEST = 8  # of stages of a kind, and of trials, which say how long the next take
TOLD_EVERY = 30.0  # seconds between two lines in a log


class StudyProgress:
    """A live line on a terminal, and plain lines in a log; an observer for `Study.run`.

    It may be entered several times, for the runs that one command makes of a study: what one of
    them did is done for the next, and the clock goes on.
    """

    def __init__(
        self,
        spec: Spec,
        console: Console,
        *,
        workers: int = 1,
        cluster: Cluster | None = None,
        matched: bool = False,
    ) -> None:
        """Take what the study is, and how many workers share it, or on which cluster it is.

        `matched` says whether a dense network that is as fast is trained, now or once its width
        is found.
        """
        self._spec, self._console, self._workers = spec, console, workers
        self._cluster = cluster
        self._running: set[Item] = set()
        planned = items(spec.options, spec.seeds, matched=matched)
        self._left = {item: epochs(spec.options, item) for item in planned}
        self._all = len(self._left)
        self._rates: dict[str, list[float]] = {}  # by kind of stage, seconds an epoch
        self._passes: list[float] = []  # of single passes, which serve until a stage is done
        self._since: dict[Item, float] = {}  # when the pass began that runs
        self._trials: list[float] = []  # seconds each
        self._found = 0
        self._begun = self._told = time.perf_counter()
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

    def expect_none_as_fast(self) -> None:
        """Count no dense network that is as fast any more: no width was found."""
        fast = [item for item in self._left if _named(item) == AS_FAST]
        self._all -= len(fast)
        for item in fast:
            del self._left[item]
        if fast and not self._left and not self._console.is_terminal:
            self._log(time.perf_counter(), "")

    def __call__(self, event: Event) -> None:
        """Take in one event of the study."""
        item = event.item
        if event.kind == "found":  # before, or by the run before this one
            self._found += self._left.pop(item, None) is not None
            return
        if self._found:
            self._say(f"resuming: {self._found} items were done before")
            self._found = 0
        if event.kind == "lost":
            self._left[item] = epochs(self._spec.options, item)
            self._say(f"seed {item.seed}: {_describe(item)}: its worker was lost; it begins again")
        now = time.perf_counter()
        if event.kind == "epoch":  # a pass is an epoch, or less
            self._left[item] = max(0.0, self._left.get(item, 0.0) - 1.0)
            if item in self._since:
                self._passes.append(now - self._since[item])
        if event.kind in ("begin", "epoch"):
            self._running.add(item)
            self._since[item] = now
        else:
            self._running.discard(item)
            self._since.pop(item, None)
        if event.kind in ("done", "failed", "omitted"):
            self._left.pop(item, None)
            if event.kind == "done" and event.record:
                self._done(item, event.record, epochs(self._spec.options, item))
        self._update(item, now)

    def _done(self, item: Item, record: object, whole: float) -> None:
        assert isinstance(record, dict)
        if isinstance(item, Stage):
            rates = self._rates.setdefault(item.name, [])
            rates.append(record["seconds"] / whole if whole else 0.0)
            return
        self._trials.append(record["seconds"])
        unit, margin = str(self._spec.metric["unit"]), self._spec.options.margin or 1.0
        units = Units.chosen(unit, margin, bool(self._spec.metric["higher_is_better"]))
        if self._console.is_terminal:
            test = units.value(record["metrics"]["test"])
            self._say(f"  seed {item.seed}: {_describe(item)}: {test}")

    def _say(self, text: str) -> None:
        self._console.print(Words(text))

    def _update(self, item: Item, now: float) -> None:
        spent, left = now - self._begun, self._seconds_left()
        shown = "" if left is None or not self._left else f"{duration(left)} left"
        if self._console.is_terminal:
            self._bar.update(
                self._line,
                description=printable(f"seed {item.seed}: {_describe(item)}"),
                completed=spent / (spent + left) if left is not None else 0.0,
                left=", ".join(filter(None, (self._where(), shown))),
            )
        elif now - self._told >= TOLD_EVERY or not self._left:
            self._log(now, shown)

    def _log(self, now: float, left: str) -> None:
        self._told = now
        done = f"{self._all - len(self._left)} of {self._all} items done"
        said = done, self._where(), duration(now - self._begun), left
        self._say(", ".join(filter(None, said)))

    def _where(self) -> str:
        """Say how many nodes there are and how many items run; nothing where it is one machine."""
        if self._cluster is None:
            return ""
        return f"{counted(len(self._cluster.nodes), 'node')}, {len(self._running)} running"

    def _seconds_left(self) -> float | None:
        if not (
            usual := [rate for rates in self._rates.values() for rate in rates] or self._passes
        ):
            return None
        # what ran last says most of what other work the machine has now
        rates = {name: fmean(rates[-LATEST:]) for name, rates in self._rates.items()}
        rate = fmean(usual)
        trial = fmean(self._trials[-LATEST:]) if self._trials else TRIAL_IN_EPOCHS * rate
        trials = sum(isinstance(item, Trial) for item in self._left)
        training = sum(left * rates.get(_named(item), rate) for item, left in self._left.items())
        workers = self._workers if self._cluster is None else max(1, self._cluster.slots)
        return (training + trials * trial) / workers


def _named(item: Item) -> str:
    return item.name if isinstance(item, Stage) else item.criterion


def _describe(item: Item) -> str:
    sparsity = f"{100 * (1 - item.keep):g} % sparsity"
    name = _named(item)
    if name == START:
        said = "the start, trained with all weights"
    elif name == AS_FAST:
        said = f"a dense network that is as fast, trained as long as to {sparsity}"
    elif name in SMALLER:
        said = f"a smaller dense network, trained as long as to {sparsity}"
    elif name == UNCUT:
        said = f"uncut, trained as long as to {sparsity}"
    else:
        said = f"{name} to {sparsity}"
    return said if isinstance(item, Stage) else f"{said}, {item.recovery}"
