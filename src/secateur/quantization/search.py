"""The best of several whole candidates, by the error of the network's outputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from secateur.errors import UsageError
from secateur.quantization import correction, running, weights
from secateur.quantization import plan as plans
from secateur.quantization.correction import Difference
from secateur.quantization.network import Float
from secateur.quantization.placement import Layer
from secateur.quantization.plan import Choice, Plan
from secateur.quantization.ranges import METHODS, Histogram
from secateur.quantization.running import Arrays

HELD = 256
"""Samples at most on which candidates are compared."""

CORRECTED = 256
"""Samples at most from which biases are corrected."""

Progress = Callable[[str], None]


class Search:
    """Calibration data, what the float network makes of them, and candidates tried on them.

    Ranges come from the first half of the data, errors from the second; the ranges of the plan
    that is chosen from both.
    """

    def __init__(
        self, network: Float, layers: Mapping[str, Layer], data: Arrays, progress: Progress
    ) -> None:
        self.network, self.layers, self.progress = network, layers, progress
        self.store = weights.Store(network.graph)
        self.errors: dict[str, float] = {}
        self.samples = _count(data)
        step = network.samples or 1
        half = -(-_count(data) // step // 2) * step
        self.first = {name: array[:half] for name, array in data.items()}
        second = {name: array[half:] for name, array in data.items()}
        progress("observing values")
        self.half = self.all = self._observed(self.first)
        self.held = self.first
        if _count(second):
            other = self._observed(second)
            self.all = {name: part.merged(other[name]) for name, part in self.half.items()}
            self.held = second
        self.held = self._head(self.held, HELD)
        self.wanted = self._joined(lambda part: running.run(network, part))
        self.few = next(running.chunks(network, self.held))
        self.wanted_of_few = running.run(network, self.few)

    def _head(self, data: Arrays, most: int) -> dict[str, np.ndarray]:
        """Return the first samples: so many, or whole batches where the file fixes the batch."""
        step = self.network.samples or 1
        return {name: array[: max(step, most // step * step)] for name, array in data.items()}

    def _observed(self, data: Arrays) -> dict[str, Histogram]:
        names = plans.observed(self.layers, self.network.graph)
        histograms = {name: Histogram() for name in names}

        def seen(name: str, array: np.ndarray) -> np.ndarray:
            if name in histograms:
                histograms[name].add(name, array)
            return array

        try:
            for part in running.chunks(self.network, data):
                running.run(self.network, part, seen=seen)
        except UsageError as error:  # of values that are not finite: see whose fault that is
            for name, layer in self.layers.items():
                if reason := weights.refusal(self.network.graph, layer):
                    raise UsageError(
                        f"layer {name!r}: {reason}, and so are values of the network; train it "
                        "again, from before that began"
                    ) from error
            raise
        return histograms

    def _joined(self, run: Callable[[Arrays], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return running.joined([run(part) for part in running.chunks(self.network, self.held)])

    def error(self, plan: Plan) -> float:
        """Return the error of a plan's outputs, as `difference`, on the samples held back."""
        return difference(self._joined(plan.run), self.wanted)

    def alone(self, plan: Plan, name: str) -> float:
        """Return the error of the outputs where one layer alone is quantised, on a few samples."""
        return difference(plan.run(self.few, only=name), self.wanted_of_few)

    def plan(self, choice: Choice, kept: Collection[str] = (), *, final: bool = False) -> Plan:
        """Return the plan of a choice; a final one has the ranges of all data."""
        histograms = self.all if final else self.half
        parts = self.network, self.layers, histograms, choice, kept
        plan = plans.make(*parts, store=self.store)
        if not choice.corrected:
            return plan
        found = self.differences(plan, correct=True)
        shifts = {name: d.shift for name, d in found.items() if d.shift is not None}
        return plans.make(*parts, shifts, self.store)

    def differences(self, plan: Plan, *, correct: bool = False) -> dict[str, Difference]:
        """Return what rounding does to each layer, as `correction.differences`, on many samples."""
        some = self._head(self.first, CORRECTED)
        chunks = list(running.chunks(self.network, some))
        parts = [correction.differences(plan, part, correct=correct) for part in chunks]
        counts = [_count(part) for part in chunks]
        return {name: correction.mean([part[name] for part in parts], counts) for name in parts[0]}

    def best(
        self, kept: Collection[str], methods: Sequence[str] = METHODS, *, exact: bool = False
    ) -> Choice:
        """Return the choice of the smallest error, with functions in float32 or not."""
        for method in methods:
            self.progress(f"trying ranges: {method}")
            self.errors[method] = self.error(self.plan(Choice(method, exact=exact), kept))
        choice = Choice(min(self.errors, key=self.errors.__getitem__), exact=exact)
        least = self.errors[choice.method]
        self.progress("trying clipped weights")
        clipped = replace(choice, clipped=True)
        if (error := self.error(self.plan(clipped, kept))) < least:
            choice, least = clipped, error
        self.progress("trying corrected biases")
        corrected = replace(choice, corrected=True)
        if self.error(self.plan(corrected, kept)) < least:
            choice = corrected
        return choice


def _count(data: Arrays) -> int:
    return len(next(iter(data.values())))


def difference(found: Arrays, wanted: Arrays) -> float:
    """Return how far outputs are off: the root of the mean square, relative to that of the wanted.

    The mean over all outputs of floats; of others it is the share that differs. Numbers that are
    to be infinite or NaN, such as masked scores, are off only where they are not so.
    """
    parts = []
    for name, array in wanted.items():
        if array.dtype.kind != "f":
            parts.append(float((found[name] != array).mean()) if array.size else 0.0)
            continue
        finite = np.isfinite(array)
        alike = np.array_equal(found[name][~finite], array[~finite], equal_nan=True)
        right = array[finite].astype(np.float64)
        scale = float(np.square(right).sum())
        off = float(np.square(found[name][finite] - right).sum())
        part = (off / scale) ** 0.5 if scale else off**0.5
        parts.append(part if alike and np.isfinite(part) else np.inf)
    return float(np.mean(parts)) if parts else 0.0
