"""Two studies of the same seeds, compared in pairs by seed from their tables alone.

    python benchmarks/two_studies.py results.csv OTHER.csv [--row gate/ladder] [--other gate/ladder]

Prints, for each level that both have, the difference of the test metric (the first minus the
second): mean over the seeds that both have, and half of the 95 % interval for new seeds (Student's
t). OTHER.csv may be the same file, to compare two of its rows.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import stats

SEED = "test_seed_"
CONFIDENCE = 0.95


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("first", type=Path, help="results.csv of a study")
    parser.add_argument("second", type=Path, help="of another, or the same")
    parser.add_argument("--row", default="gate/ladder", help="criterion/recovery of the first")
    parser.add_argument("--other", default="gate/ladder", help="of the second")
    given = parser.parse_args(arguments)
    first, second = _values(given.first, given.row), _values(given.second, given.other)
    print(f"| sparsity | {given.first.stem} {given.row} − {given.second.stem} {given.other} | n |")
    print("|---|---|---|")
    for keep in sorted(first.keys() & second.keys(), reverse=True):
        seeds = sorted(first[keep].keys() & second[keep].keys())
        found = np.array([first[keep][seed] - second[keep][seed] for seed in seeds])
        error = stats.sem(found) * stats.t.ppf((1 + CONFIDENCE) / 2, len(seeds) - 1)
        print(f"| {100 * (1 - keep):.3g} % | {found.mean():+.2f} ± {error:.2f} | {len(seeds)} |")
    return 0


def _values(path: Path, row: str) -> Mapping[float, Mapping[str, float]]:
    """Return the test metric of each seed, by keep ratio, of a criterion and a recovery."""
    criterion, _, recovery = row.partition("/")
    with path.open(encoding="utf-8", newline="") as file:
        lines = [
            line
            for line in csv.DictReader(file)
            if (line["criterion"], line["recovery"]) == (criterion, recovery)
        ]
    if not lines:
        raise SystemExit(f"{path} has no row {row}; give --row or --other, such as uncut/ladder")
    return {
        float(line["keep"]): {
            name: float(value) for name, value in line.items() if name.startswith(SEED) and value
        }
        for line in lines
    }


if __name__ == "__main__":
    raise SystemExit(main())
