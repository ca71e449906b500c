"""Time and memory of an exact cut of a model of a billion weights, and of one training step.

    python benchmarks/selection.py [--weights 1_000_000_000] [--dtype float32] [--layers 100]

Scores are normally distributed magnitudes, with a tenth of them equal to one another around the
cut so that ties are broken too. Each row runs in a process of its own; its peak memory is that
process's highest resident set less what it held before there were any scores, so scores, masks
and everything temporary. Exit status 1: a count was not exact, or a goal was missed.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from secateur import Budget, Masks, machine, select
from secateur.pruning.selecting.selection import top_k

SECONDS, TIMES, STEP = 60.0, 3.0, 0.010
KEEP = 0.1
STEP_WEIGHTS = 400_000


@dataclass(frozen=True)
class Row:
    """One cut: what of, how long it took, and how much memory beside nothing."""

    cut: str
    weights: int
    layers: int
    dtype: str
    seconds: float
    scores_gib: float
    peak_gib: float
    exact: bool


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--weights", type=int, default=1_000_000_000)
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--layers", type=int, default=100)
    parser.add_argument("--row", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        row = _measure(arguments.row, arguments.weights, arguments.layers, arguments.dtype)
        print(json.dumps(asdict(row)))
        return 0
    own = ("--dtype", arguments.dtype, "--layers", str(arguments.layers))
    big = ("--weights", str(arguments.weights), *own)
    rows = [
        _child("global, floor 0", *big),
        _child("global, floor 0.002", *big),
        _child("layer, floor 0.002", *big),
        _child("training step", "--weights", str(STEP_WEIGHTS), "--layers", "20"),
        _child("top_k", "--weights", str(STEP_WEIGHTS), "--layers", "1"),
    ]
    return _report(rows)


def _child(row: str, *arguments: str) -> Row:
    command = [sys.executable, str(Path(__file__)), "--row", row, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Row(**json.loads(done.stdout))


def _measure(cut: str, weights: int, layers: int, dtype: str) -> Row:
    top_k(torch.rand(100), 3)
    before = _peak_bytes()
    scores = _scores(weights, layers, getattr(torch, dtype))
    scores_bytes = weights * scores["layer000"].itemsize
    small = weights == STEP_WEIGHTS
    seconds = []
    budget = Budget(KEEP, "layer" if cut.startswith("layer") else "global", _floor(cut))
    for _ in range(50 if small else 1):
        start = time.perf_counter()
        if cut == "top_k":
            masks = Masks({"": top_k(scores["layer000"], round(KEEP * weights))})
        else:
            masks = select(scores, budget)
        seconds.append(time.perf_counter() - start)
    peak = _peak_bytes() - before
    return Row(
        cut=cut,
        weights=weights,
        layers=layers,
        dtype=dtype,
        seconds=statistics.median(seconds),
        scores_gib=scores_bytes / 2**30,
        peak_gib=peak / 2**30,
        exact=masks.kept == round(KEEP * weights),
    )


def _floor(cut: str) -> float:
    return 0 if cut.endswith("floor 0") else 0.002


def _scores(weights: int, layers: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return `weights` scores in layers whose sizes grow from first to last."""
    ends = [weights * i * (i + 1) // (layers * (layers + 1)) for i in range(layers + 1)]
    generator = torch.Generator().manual_seed(0)
    scores = {}
    for i, (start, end) in enumerate(pairwise(ends)):
        layer = torch.empty(end - start, dtype=dtype)
        for part in torch.split(layer, 2**24):
            part.normal_(generator=generator).abs_()
            part[: len(part) // 10] = 1.645  # the cut at a keep ratio of 0.1
        scores[f"layer{i:03}"] = layer
    return scores


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _report(rows: list[Row]) -> int:
    hardware = machine.describe()
    table = Table(
        title=f"secateur {machine.versions()['secateur']}, exact selection at keep ratio {KEEP}",
        caption=f"{hardware['cpu']}, {hardware['cores']} cores, {torch.get_num_threads()} threads, "
        f"{datetime.now(UTC):%Y-%m-%d}; goals: {SECONDS:g} s, {TIMES:g} × the scores, "
        f"{STEP * 1e3:g} ms a training step",
    )
    for heading in ("cut", "weights", "layers", "dtype", "seconds", "scores", "peak", "exact K"):
        table.add_column(heading, justify="left" if heading in ("cut", "dtype") else "right")
    failed = False
    for row in rows:
        small = row.weights == STEP_WEIGHTS
        times = row.peak_gib / row.scores_gib
        slow = row.seconds > (STEP if small else SECONDS)
        failed |= slow or not row.exact or (not small and times > TIMES)
        table.add_row(
            row.cut,
            f"{row.weights:,}",
            str(row.layers),
            row.dtype,
            f"{row.seconds:.4f}" if small else f"{row.seconds:.1f}",
            f"{row.scores_gib:.2f} GiB",
            "" if small else f"{row.peak_gib:.2f} GiB = {times:.2f} ×",
            "yes" if row.exact else "NO",
        )
    Console(width=120).print(table)
    if failed:
        print("a goal was missed")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
