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
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

Run = Callable[[], list[Any]]
"""Runs the network once on its inputs and returns its outputs, numpy arrays."""


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
            text = " ".join(str(error).split())
            answer = {"error": f"{type(error).__name__}: {text}"[:600]}
        answers.write(json.dumps(answer) + "\n")


class State:
    """One loaded model; each method `do_x` answers request x."""

    def __init__(self) -> None:
        self.run: Run = list
        self.engine: Any = None
        self.arrays: list[Any] = []

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
    ) -> dict[str, Any]:
        """Load a model; run it once, and leave its outputs in a file.

        Args:
            engine: a key of `ADAPTERS`.
            model: path of what the engine reads.
            inputs: path of an npz file with one whole batch, in the order of the model's inputs.
            names: of these inputs.
            outputs: path of an npz file to write.
            threads: that the engine may use.
            cpus: that this process is bound to; empty where the system cannot.
            axes: name → extent of the model's dynamic axes.
        """
        if cpus:
            os.sched_setaffinity(0, cpus)
        import numpy

        with numpy.load(inputs) as file:
            feeds = {name: file[f"arr_{i}"] for i, name in enumerate(names)}
        self.arrays = list(feeds.values())
        start = time.perf_counter()
        self.engine, self.run = ADAPTERS[engine](model, feeds, threads, axes)
        seconds = time.perf_counter() - start
        numpy.savez(outputs, *self.run())
        return {"seconds": seconds, "version": version(engine)}

    def do_run(self, seconds: float, warm: float) -> dict[str, Any]:
        """Run for `warm` seconds, then for `seconds`, each at least once; times of the latter."""
        warmed = len(_timed(self.run, warm))
        return {"warmed": warmed, "nanoseconds": _timed(self.run, seconds)}

    def do_profile(self, seconds: float) -> dict[str, Any]:
        """Return a secateur engine's [step, its median seconds], and its artifact's info."""
        end = time.perf_counter() + seconds
        runs = [self.engine.profile(*self.arrays)]
        while time.perf_counter() < end:
            runs.append(self.engine.profile(*self.arrays))
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


def _timed(run: Run, seconds: float) -> list[int]:
    clock, times = time.perf_counter_ns, []
    end = clock() + int(seconds * 1e9)
    while True:
        start = clock()
        run()
        stop = clock()
        times.append(stop - start)
        if stop >= end:
            return times


def _secateur(
    model: str, feeds: dict[str, Any], threads: int, axes: dict[str, int]
) -> tuple[Any, Run]:
    engine = import_module("secateur.compiler.runtime").Engine.load(model, threads=threads)
    arrays = list(feeds.values())

    def run() -> list[Any]:
        found = engine(*arrays)
        return list(found) if isinstance(found, (tuple, list)) else [found]

    return engine, run


def _onnxruntime(
    model: str, feeds: dict[str, Any], threads: int, axes: dict[str, int]
) -> tuple[Any, Run]:
    ort = import_module("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    for axis, extent in axes.items():
        options.add_free_dimension_override_by_name(axis, extent)
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session, lambda: session.run(None, feeds)


def _openvino(
    model: str, feeds: dict[str, Any], threads: int, axes: dict[str, int]
) -> tuple[Any, Run]:
    ov = import_module("openvino")
    network = ov.Core().read_model(model)
    network.reshape({name: list(array.shape) for name, array in feeds.items()})
    # Left alone it computes in bfloat16 where the processor can; all engines compute in float32.
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = ov.Core().compile_model(network, "CPU", settings).create_infer_request()

    def run() -> list[Any]:
        return list(request.infer(feeds, share_inputs=True, share_outputs=True).values())

    return request, run


def _deepsparse(
    model: str, feeds: dict[str, Any], threads: int, axes: dict[str, int]
) -> tuple[Any, Run]:
    arrays = list(feeds.values())
    engine = import_module("deepsparse").Engine(model, batch_size=len(arrays[0]), num_cores=threads)
    return engine, lambda: engine.run(arrays)


ADAPTERS: dict[str, Callable[[str, dict[str, Any], int, dict[str, int]], tuple[Any, Run]]] = {
    "secateur": _secateur,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "deepsparse": _deepsparse,
}
"""Engine → how to load a model with it: (model, inputs, threads, axes) → (engine, run)."""


if __name__ == "__main__":
    main()
