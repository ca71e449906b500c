"""What runs in an engine's own process: it loads one model, runs it when told, and times it.

A script rather than a module: other engines live in environments of their own, where secateur is
not installed. So it needs nothing but Python 3.10, numpy and the engine. Requests and answers are
lines of JSON on standard input and output; what an engine prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import version
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

Call = Callable[[dict[str, Any]], list[Any]]
"""Runs a network once on input → array and returns its outputs, numpy arrays."""


def main() -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    state = State()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(state, "do_" + request.pop("do"))(**request)
        except Exception as error:
            text = " ".join(str(error).split())[:600]
            if isinstance(error, ModuleNotFoundError) and error.name:
                text += f"; {sys.executable} -m pip install {error.name.partition('.')[0]}"
            answer = {"error": f"{type(error).__name__}: {text}"}
        answers.write(json.dumps(answer) + "\n")


class State:
    """One loaded model; each method `do_x` answers request x."""

    def __init__(self) -> None:
        self.engine: Any = None
        self.call: Call = lambda _: []
        self.feeds: dict[str, Any] = {}

    def do_quantise(
        self,
        engine: str,
        model: str,
        inputs: str,
        names: list[str],
        batch: int,
        folder: str,
        cpus: list[int],
        settings: dict[str, Any],
    ) -> dict[str, Any]:
        """Write a quantised model into a folder; return its files and what quantised it.

        Args:
            engine: a file of `engines`.
            model: path of an ONNX file.
            inputs: path of an npz file with samples to calibrate on, in the order of `names`.
            names: of the model's inputs.
            batch: how many samples the model is given at once.
            folder: of what is written.
            cpus: that this process is bound to; empty where the system cannot.
            settings: of the peer.
        """
        _bind(cpus)
        batches = [part for part, _ in _batches(_arrays(inputs, names), batch)]
        files, by = _adapter(engine).quantise(model, folder, batches, settings)
        return {"files": files, "by": by}

    def do_load(
        self,
        engine: str,
        model: str,
        inputs: str,
        names: list[str],
        outputs: str,
        threads: int,
        cpus: list[int],
        axes: dict[str, int],
        settings: dict[str, Any],
    ) -> dict[str, Any]:
        """Load a model; run it once, and leave its outputs in a file.

        Args:
            engine: a file of `engines`.
            model: path of what the engine reads.
            inputs: path of an npz file with one whole batch, in the order of the model's inputs.
            names: of these inputs.
            outputs: path of an npz file to write.
            threads: that the engine may use.
            cpus: that this process is bound to; empty where the system cannot.
            axes: name → extent of the model's dynamic axes.
            settings: of the peer.
        """
        _bind(cpus)
        self.feeds = _arrays(inputs, names)
        adapter = _adapter(engine)
        start = time.perf_counter()
        self.engine, self.call, precision = adapter.load(model, self.feeds, threads, axes, settings)
        seconds = time.perf_counter() - start
        import_module("numpy").savez(outputs, *self.run())
        return {"seconds": seconds, "version": version(engine), "precision": precision}

    def run(self) -> list[Any]:
        """Run the network once on the batch that it was loaded with."""
        return self.call(self.feeds)

    def do_evaluate(self, inputs: str, names: list[str], outputs: str) -> dict[str, Any]:
        """Run any number of samples, in batches of the size that the model was loaded with.

        Args:
            inputs: path of an npz file, in the order of `names`.
            names: of the model's inputs.
            outputs: path of an npz file to write: each output of all samples.
        """
        numpy = import_module("numpy")
        batch = _extent(self.feeds)
        parts: list[list[Any]] = []
        for feeds, meant in _batches(_arrays(inputs, names), batch):
            found = self.call(feeds)
            if any(array.ndim == 0 or len(array) % batch for array in found):
                raise ValueError(f"its outputs do not have {batch} rows, or a multiple")
            # Copies: an engine may write its next outputs to the same place.
            parts.append([array[: meant * (len(array) // batch)].copy() for array in found])
        numpy.savez(outputs, *map(numpy.concatenate, zip(*parts, strict=True)))
        return {"batches": len(parts)}

    def do_run(self, seconds: float, warm: float) -> dict[str, Any]:
        """Run for `warm` seconds, then for `seconds`, each at least once; times of the latter."""
        warmed = len(_timed(self.run, warm))
        return {"warmed": warmed, "nanoseconds": _timed(self.run, seconds)}

    def do_profile(self, seconds: float) -> dict[str, Any]:
        """Return a secateur engine's [step, its median seconds], and its artifact's info."""
        end = time.perf_counter() + seconds
        runs = [self.engine.profile(*self.feeds.values())]
        while time.perf_counter() < end:
            runs.append(self.engine.profile(*self.feeds.values()))
        middle = len(runs) // 2
        columns = [sorted(run[i][1] for run in runs)[middle] for i in range(len(runs[0]))]
        steps = [[step[0], seconds] for step, seconds in zip(runs[0], columns, strict=True)]
        return {"steps": steps, "info": self.engine.info}

    def do_memory(self) -> dict[str, Any]:
        """Return the most memory, in bytes, that this process has held so far, where known."""
        try:
            status = Path("/proc/self/status").read_text().split()
            return {"peak": 1024 * int(status[status.index("VmHWM:") + 1])}
        except (OSError, ValueError):
            if platform.system() != "Darwin":
                return {"peak": None}
            usage = import_module("resource")
            return {"peak": usage.getrusage(usage.RUSAGE_SELF).ru_maxrss}


def _timed(run: Callable[[], list[Any]], seconds: float) -> list[int]:
    clock, times = time.perf_counter_ns, []
    end = clock() + int(seconds * 1e9)
    while True:
        start = clock()
        run()
        stop = clock()
        times.append(stop - start)
        if stop >= end:
            return times


def _adapter(engine: str) -> Any:
    """Return the module of an engine's file; it may be named as the package that it imports."""
    path = Path(__file__).with_name("engines") / f"{engine}.py"
    spec = spec_from_file_location(f"engine_{engine}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"there is no file {path}")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _bind(cpus: list[int]) -> None:
    if cpus:
        os.sched_setaffinity(0, cpus)


def _arrays(path: str, names: list[str]) -> dict[str, Any]:
    """Return name → array of an npz file that has them in this order."""
    with import_module("numpy").load(path) as file:
        return {name: file[f"arr_{i}"] for i, name in enumerate(names)}


def _extent(feeds: dict[str, Any]) -> int:
    return max((len(array) for array in feeds.values() if array.ndim), default=1)


def _batches(feeds: dict[str, Any], batch: int) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield feeds of exactly `batch` samples, and how many are meant; the last sample fills up."""
    numpy = import_module("numpy")
    count = _extent(feeds)
    for start in range(0, count, batch):
        meant = min(batch, count - start)
        places = numpy.minimum(numpy.arange(start, start + batch), count - 1)
        # An input without axes is the same for every sample.
        yield {name: array[places] if array.ndim else array for name, array in feeds.items()}, meant


if __name__ == "__main__":
    main()
