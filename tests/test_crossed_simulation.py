"""Do the certificates keep their promise? Whole studies, simulated, with right or wrong answers.

Every rate is compared with what is promised plus four of its own standard errors, so that a test
of a method that is exactly as good as promised fails once in 30,000 seeds of the generator.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import ndtri

from secateur.study.statistics import (
    Differences,
    differences,
    interval,
    noninferior,
    operating_region,
    t_interval,
)


def slack(rate, repetitions):
    return 4 * math.sqrt(rate * (1 - rate) / repetitions)


# ---- intervals: differences drawn directly, so that their correlation between seeds is known


def drawn(rng, seeds, examples, lost, won, alike, spread):
    """Differences of -100, 0 and 100 whose true mean is 100 (won - lost).

    `alike` is the correlation between seeds of what decides an example, `spread` the standard
    deviation between seeds of the mean, as a fraction.
    """
    common = rng.standard_normal((1, examples), dtype=np.float32)
    own = rng.standard_normal((seeds, examples), dtype=np.float32)
    z = math.sqrt(alike) * common + math.sqrt(1 - alike) * own
    shift = rng.normal(0, spread, (seeds, 1)) / 2
    low, high = ndtri(np.clip(lost - shift, 1e-9, 1)), ndtri(1 - np.clip(won + shift, 1e-9, 1))
    table = (100 * ((z > high).astype(np.int8) - (z < low))).astype(np.float32)
    means = dict(enumerate(table.mean(1, dtype=np.float64).tolist()))
    return Differences(means, table, 100.0)


CASES = [
    pytest.param(0.025, 0.020, 0.3, 0.0028, id="as measured"),
    pytest.param(0.025, 0.020, 0.9, 0.0, id="seeds nearly agree"),
    pytest.param(0.005, 0.0001, 0.95, 0.0, id="few disagree, at the margin"),
]


@pytest.mark.parametrize(("examples", "repetitions"), [(360, 700), (10_000, 160)])
@pytest.mark.parametrize("seeds", [3, 5, 8])
@pytest.mark.parametrize(("lost", "won", "alike", "spread"), CASES)
def test_intervals_hold_the_truth_as_often_as_they_say(
    seeds, examples, repetitions, lost, won, alike, spread
):
    rng, truth = np.random.default_rng(seeds), 100 * (won - lost)
    studies = [drawn(rng, seeds, examples, lost, won, alike, spread) for _ in range(repetitions)]
    found = [interval(study) for study in studies]
    covered = sum(each.low <= truth <= each.high for each in found) / repetitions
    assert covered >= 0.95 - slack(0.95, repetitions)
    wrong = sum(noninferior(study, -truth).passed for study in studies) / repetitions
    assert wrong <= 0.05 + slack(0.05, repetitions)


def test_seeds_alone_do_not_speak_of_new_examples():
    """What the examples are kept for: the interval over seeds is far too narrow for them."""
    rng, repetitions = np.random.default_rng(0), 500
    studies = [drawn(rng, 8, 360, 0.025, 0.02, 0.7, 0.0) for _ in range(repetitions)]
    naive = [t_interval(study.by_seed) for study in studies]
    covered = sum(each.low <= -0.5 <= each.high for each in naive) / repetitions
    assert covered < 0.8


# ---- whole studies: networks that are right or wrong, a reference, levels, recoveries

RIGHT = 0.9
EXAMPLE, NETWORK = 0.6, 0.34  # of the variance of what decides whether an answer is right


class Study:
    """Answers to examples by seed and network, network 0 being the reference.

    A network is right about an example where a normal number is below its threshold: a part of it
    belongs to the example, a part to seed and example (all networks of a seed come from one
    training), a part to the network of that seed, the rest to everything. All parts are normal, so
    the chance of being right, for a new seed and a new example, is exactly what it is set to.
    """

    def __init__(self, rng, seeds, costs, spread):
        self._rng, self._seeds = rng, seeds
        self._limits = ndtri(RIGHT - np.array((0.0, *costs)) / 100).astype(np.float32)
        self._rest = math.sqrt(1 - EXAMPLE - NETWORK - spread**2)
        self._shift = rng.normal(0, spread, (seeds, len(self._limits), 1)).astype(np.float32)

    def answers(self, examples):
        """Return scores [networks] of {seed: (mean, [examples])} on new examples, same seeds."""
        normal = self._rng.standard_normal
        shape = (self._seeds, len(self._limits), examples)
        z = math.sqrt(EXAMPLE) * normal((1, 1, examples), dtype=np.float32)
        z = z + math.sqrt(NETWORK) * normal((self._seeds, 1, examples), dtype=np.float32)
        z = z + self._rest * normal(shape, dtype=np.float32) + self._shift
        right = (z < self._limits[:, None]).astype(np.float32) * 100
        means = right.mean(2, dtype=np.float64)
        return [
            {s: (round(float(means[s, k]), 10), right[s, k]) for s in range(self._seeds)}
            for k in range(len(self._limits))
        ]


KEEPS = (0.9, 0.7, 0.5, 0.3, 0.1)
MARGIN = 2.0
EXAMPLES = 500


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("spread", [0.0, 0.06], ids=["seeds alike", "seeds differ"])
@pytest.mark.parametrize(
    "costs", [(2.0, 2.0, 3.0), (0.0, 2.0, 2.0, 2.0, 2.0), (0.0, 1.0, 2.0, 0.0)], ids=str
)
def test_a_study_certifies_an_inferior_level_no_more_often_than_promised(seeds, spread, costs):
    rng, repetitions = np.random.default_rng(seeds), 400
    wrong = 0
    for _ in range(repetitions):
        reference, *levels = Study(rng, seeds, costs, spread).answers(EXAMPLES)
        region = operating_region(
            {
                keep: differences(level, reference)
                for keep, level in zip(KEEPS, levels, strict=False)
            },
            MARGIN,
        )
        reached = len(region.certified)
        wrong += any(cost >= MARGIN for cost in costs[:reached])
    assert wrong / repetitions <= 0.05 + slack(0.05, repetitions)


def chosen_and_certified(choices, seeds, repetitions, anew):
    """How often the best on validation data of four recoveries, all at the margin, is certified."""
    rng, costs, wrong = np.random.default_rng(1), (MARGIN,) * 4, 0
    for _ in range(repetitions):
        study = Study(rng, seeds, costs, 0.1)
        reference, *recoveries = study.answers(EXAMPLES)
        if anew:
            study = Study(rng, seeds, costs, 0.1)
        validation = [
            sum(mean for mean, _ in each.values()) for each in study.answers(EXAMPLES)[1:]
        ]
        best = recoveries[int(np.argmax(validation))]
        region = operating_region({0.5: differences(best, reference)}, MARGIN, choices=choices)
        wrong += bool(region.certified)
    return wrong / repetitions


def test_a_choice_on_validation_data_is_paid_for():
    rate, repetitions = 0.05, 500
    assert chosen_and_certified(4, 5, repetitions, False) <= rate + slack(rate, repetitions)


def test_a_choice_on_validation_data_of_the_same_seeds_is_not_free():
    rate, repetitions = 0.05, 500
    assert chosen_and_certified(1, 5, repetitions, False) > rate + slack(rate, repetitions)


def test_a_choice_on_other_seeds_is_free():
    rate, repetitions = 0.05, 500
    assert chosen_and_certified(1, 5, repetitions, True) <= rate + slack(rate, repetitions)
