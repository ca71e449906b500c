"""What threads gain on a machine that others use, and what a fixed batch costs against a free one.

    python benchmarks/threads.py FOLDER [--nets resnet18,resnet56] [--sparsity 0.9] [--seconds 1]

In one process, in turns: a network at batch 1 with one thread and with one for each core, first on
an idle machine, then while another process computes without a pause on one of these cores; and at
batch 64, from a file in which the batch is free and from one that fixes it, one thread. Medians of
the turns. Exit status 1: a goal was missed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from networks import NETWORKS, onnx_file
from secateur.compiler.pipeline import compile_network
from secateur.compiler.runtime import Engine
from secateur.machine import physical_cores

ROUNDS = 9
BUSY = "import os, sys\nos.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"
GOALS = {"busy": 0.8, "idle": 0.97, "fixed": 0.95}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="of ONNX files; made if need be")
    parser.add_argument("--nets", default="resnet18,resnet56,mlp")
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn")
    given = parser.parse_args(arguments)
    missed = False
    print("| net | 1 thread, idle | all | 1 thread, a core busy | all | batch 64, free | fixed |")
    print("|---|---|---|---|---|---|---|")
    for name in given.nets.split(","):
        found = measured(onnx_file(name, given.sparsity, given.folder), name, given.seconds)
        print("| " + " | ".join([name, *(f"{ms:.3g} ms" for ms in found.values())]) + " |")
        figures = ratios(found)
        print("  " + ", ".join(f"{what} {ratio:.2f}" for what, ratio in figures.items()))
        missed |= any(figures[what] < goal for what, goal in GOALS.items())
    print("goals: " + ", ".join(f"{what} at least {goal:g}" for what, goal in GOALS.items()))
    return int(missed)


def ratios(found: Mapping[str, float]) -> dict[str, float]:
    """Return the speed of all threads over that of one, and of a fixed batch over a free one."""
    return {
        "idle": found["one idle"] / found["all idle"],
        "busy": found["one busy"] / found["all busy"],
        "fixed": found["free"] / found["fixed"],
    }


def measured(path: Path, name: str, seconds: float) -> dict[str, float]:
    """Return milliseconds by what was measured."""
    free = compile_network(path).content
    shapes = {
        port: (64, *x.shape[1:])
        for port, x in zip(NETWORKS[name].names, NETWORKS[name].inputs(64), strict=True)
    }
    fixed = compile_network(path, input_shapes=shapes).content
    many = [np.asarray(x) for x in NETWORKS[name].inputs(64)]
    one = [x[:1] for x in many]
    with ExitStack() as stack:

        def engine(content: bytes, threads: int) -> Engine:
            return stack.enter_context(Engine(content, threads))

        alone, team, frozen = engine(free, 1), engine(free, physical_cores()), engine(fixed, 1)
        found = turns({"one idle": (alone, one), "all idle": (team, one)}, seconds)
        busy = subprocess.Popen([sys.executable, "-c", BUSY, str(min(os.sched_getaffinity(0)))])
        try:
            found |= turns({"one busy": (alone, one), "all busy": (team, one)}, seconds)
        finally:
            busy.kill()
            busy.wait()
        return found | turns({"free": (alone, many), "fixed": (frozen, many)}, seconds)


def turns(
    engines: Mapping[str, tuple[Engine, Sequence[np.ndarray]]], seconds: float
) -> dict[str, float]:
    """Return the median over the turns of each engine's milliseconds a call."""
    times: dict[str, list[float]] = {what: [] for what in engines}
    for _ in range(ROUNDS):
        for what, (engine, given) in engines.items():
            engine(*given)
            calls, start = 0, perf_counter()
            while (spent := perf_counter() - start) < seconds:
                engine(*given)
                calls += 1
            times[what].append(1000 * spent / calls)
    return {what: median(found) for what, found in times.items()}


if __name__ == "__main__":
    sys.exit(main())
