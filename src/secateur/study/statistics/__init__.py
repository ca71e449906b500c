"""What may be concluded from a few seeds and one test set.

`Differences` are what a study measured: candidate minus reference, by seed and, where they were
kept, by test example. `interval` and `noninferior` say what follows from them, `operating_region`
tests a whole sequence of levels, and `prospects` says before a study starts what it can show.
"""

from secateur.study.statistics.crossed import MeanSquares, interval, mean_squares
from secateur.study.statistics.intervals import (
    SEEDS,
    SEEDS_AND_EXAMPLES,
    Covers,
    Interval,
    t_interval,
)
from secateur.study.statistics.pairs import (
    Differences,
    Scored,
    differences,
    paired,
    paired_interval,
)
from secateur.study.statistics.power import (
    ASSUMED,
    Noise,
    Power,
    basis,
    observed,
    power,
    prospects,
    seeds_needed,
)
from secateur.study.statistics.region import (
    MINIMUM_SEEDS,
    Region,
    Test,
    corrected,
    noninferior,
    operating_region,
)

__all__ = [
    "ASSUMED",
    "MINIMUM_SEEDS",
    "SEEDS",
    "SEEDS_AND_EXAMPLES",
    "Covers",
    "Differences",
    "Interval",
    "MeanSquares",
    "Noise",
    "Power",
    "Region",
    "Scored",
    "Test",
    "basis",
    "corrected",
    "differences",
    "interval",
    "mean_squares",
    "noninferior",
    "observed",
    "operating_region",
    "paired",
    "paired_interval",
    "power",
    "prospects",
    "seeds_needed",
    "t_interval",
]
