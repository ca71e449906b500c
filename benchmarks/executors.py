"""What an executor costs: a study of tiny trials, and one of trials that take about a second.

    python benchmarks/executors.py [--trials 200] [--workers 2] [--seconds 1] [--tiny 60]

Without Ray (`pip install '.[ray]'`) only processes are measured. Time is from the beginning of the
first item to the end of the last one, beside which the start of processes or of a cluster is
printed. Overhead is that time without what the records say that items took. Exit status 1: a goal
was missed.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean

import torch

from secateur import machine
from secateur.errors import UsageError
from secateur.study.executors.cluster import Cluster
from secateur.study.executors.processes import in_processes
from secateur.study.executors.ray import on_ray
from secateur.study.executors.turn import Execute, reproducible
from secateur.study.loading import load_task
from secateur.study.plan import Event, Trial, groups, trials
from secateur.study.study import Study

TASK = """
import dataclasses
import torch
from secateur import Metric, classification
from secateur.study.metrics import percent_correct

def correct(outputs, targets):
    work = torch.ones(256, 256)
    for _ in range({turns}):
        work @ work
    return percent_correct(outputs, targets)

base = classification("digits", "mlp", progress=False)
metric = Metric("accuracy", "%", correct)
task = dataclasses.replace(base, name="work-{turns}", metric=metric, description={{}})
"""
PLAN = {
    "keep": (0.5, 0.4, 0.3, 0.2, 0.1),
    "criteria": ("magnitude", "lamp"),
    "epochs": 1,
    "gate_epochs": 0.5,
    "smaller": 0.0,
    "calibration": 128,
    "device": "cpu",
}
CALLS = 4  # of the metric in a trial: batches of validation and test
GOALS = {"overhead": 50.0, "ratio": 0.95}


@dataclass(frozen=True)
class Spent:
    """Seconds until the first item began, and from there to the end; those of records: mean of
    trials, sum of all items."""

    start: float
    span: float
    trial: float
    work: float
    items: int

    @property
    def over(self) -> float:
        """Milliseconds an item, beside its work, where one is done at a time."""
        return 1000 * (self.span - self.work) / self.items


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=200, help="that take --seconds, about")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each of them")
    parser.add_argument("--tiny", type=int, default=60, help="trials that take little")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args(arguments)
    here = machine.describe()
    print(f"{here['cpu']}, {here['physical_cores']} cores, torch {torch.__version__}")
    missed = False
    with tempfile.TemporaryDirectory() as folder:
        short = partial(spent, Path(folder), 0, given.tiny)
        alone = short("alone", None)
        each = 1000 * alone.work / alone.items
        print(f"tiny: {alone.items} items of {each:.0f} ms, overhead {alone.over:.1f} ms alone")
        for name, execute in executors(1).items():
            found = with_executor(short, f"tiny {name}", execute)
            if found is not None:
                print(
                    f"tiny, {name}, 1 at a time: overhead {found.over:.1f} ms an item; "
                    f"start {found.start:.1f} s"
                )
                missed |= name == "ray" and found.over >= GOALS["overhead"]
        long = partial(spent, Path(folder), turns(given.seconds / CALLS), given.trials)
        rates = {}
        for name, execute in executors(given.workers).items():
            found = with_executor(long, f"long {name}", execute)
            if found is not None:
                rates[name] = found.items / found.span
                print(
                    f"{found.items} items, {found.trial:.2f} s a trial, {name}, {given.workers} at "
                    f"a time: {found.span:.1f} s; start {found.start:.1f} s"
                )
        if "ray" in rates:
            ratio = rates["ray"] / rates["processes"]
            print(f"ray over processes: {ratio:.3f}")
            missed |= ratio < GOALS["ratio"]
    print("goals: " + ", ".join(f"{name} {goal:g}" for name, goal in GOALS.items()))
    return int(missed)


def executors(workers: int) -> dict[str, Cluster | Execute]:
    """Return what is measured: several processes, and Ray where it is installed."""

    def processes(subject, store, observe):
        spec = subject.spec
        planned = groups(spec.options, spec.seeds)
        return in_processes(subject, store, observe, planned, workers)

    found: dict[str, Cluster | Execute] = {"processes": processes}
    if find_spec("ray"):
        os.environ.pop("RAY_ADDRESS", None)
        found["ray"] = Cluster("local", workers=workers)
    return found


def with_executor(
    run: Callable[[str, Execute | None], Spent], name: str, execute: Cluster | Execute
) -> Spent | None:
    """Run a study with an executor; None where it cannot be had."""
    if not isinstance(execute, Cluster):
        return run(name, execute)
    try:
        with execute as cluster:
            return run(name, on_ray(cluster))
    except UsageError as error:
        print(f"ray: {error}")
        return None


def spent(folder: Path, turns: int, wanted: int, name: str, execute: Execute | None) -> Spent:
    """Run a study of at least so many trials, and say what it took."""
    (folder / f"work{turns}.py").write_text(TASK.format(turns=turns))
    task = load_task(f"{folder}/work{turns}.py:task")
    one = Study(task, seeds=1, **PLAN)
    each = len(trials(one.spec.options, one.spec.seeds))
    study = Study(task, seeds=-(-wanted // each), out=folder / name, **PLAN)
    times: list[float] = []
    seconds: list[float] = []
    work = 0.0

    def observe(event: Event) -> None:
        nonlocal work
        if event.kind in ("begin", "done"):
            times.append(time.perf_counter())
        if event.kind == "done":
            work += event.record["seconds"]
            if isinstance(event.item, Trial):
                seconds.append(event.record["seconds"])

    begun = time.perf_counter()
    study.run(observe, workers=1, executor=execute)
    start, span = times[0] - begun, times[-1] - times[0]
    return Spent(start, span, fmean(seconds), work, len(times) // 2)


def turns(seconds: float) -> int:
    """Return how many products of 256 x 256 take so long here, with one thread."""
    work = torch.ones(256, 256)
    with reproducible(torch.device("cpu")):
        begun, count = time.perf_counter(), 0
        while time.perf_counter() - begun < 1.0:
            work @ work
            count += 1
    return max(1, round(count * seconds))


if __name__ == "__main__":
    raise SystemExit(main())
