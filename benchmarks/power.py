"""How often a level that truly costs nothing is certified, by seeds and by spread.

    python benchmarks/power.py [--margin 0.5] [--confidence 0.95] [--repeats 4000]

Draws paired differences with mean 0 and asks the study's own test; one level, normal noise.
"""

from __future__ import annotations

import argparse

import numpy as np

from secateur.study.statistics import noninferior


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--margin", type=float, default=0.5)
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--repeats", type=int, default=4000)
    arguments = parser.parse_args()
    chance = np.random.default_rng(0)
    print(f"margin {arguments.margin:g}, {arguments.repeats} studies each; SD of the differences:")
    for seeds in (3, 5):
        shares = []
        for sd in (0.1, 0.2, 0.28, 0.35):
            draws = chance.normal(0, sd, (arguments.repeats, seeds)).tolist()
            passed = sum(
                noninferior(row, arguments.margin, arguments.confidence).passed for row in draws
            )
            shares.append(f"SD {sd:g}: {passed / arguments.repeats:.1%}")
        print(f"{seeds} seeds  " + "  ".join(shares))


if __name__ == "__main__":
    main()
