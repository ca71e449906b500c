"""What a study can show before it starts, against simulation of the tests themselves."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from secateur.errors import UsageError
from secateur.study.statistics import (
    ASSUMED,
    Differences,
    Noise,
    basis,
    noninferior,
    observed,
    power,
    prospects,
    seeds_needed,
)

QUIET = Noise(seed_sd=0.2, example_sd=0.0, shared=0.0, step=None)


def test_power_of_students_test_is_that_of_the_noncentral_t():
    for seeds in (3, 5, 8):
        t, shift = stats.t.ppf(0.95, seeds - 1), 0.3 / (0.2 / math.sqrt(seeds))
        exact = stats.nct.sf(t, seeds - 1, shift)
        found = power(seeds, 1, None, 0.3, 0.95, QUIET)
        assert abs(found.level - exact) < 4 * math.sqrt(exact * (1 - exact) / 4000)
        assert found.sequence == found.level


@pytest.mark.parametrize(("seeds", "examples"), [(3, 2000), (8, 2000), (3, 10_000)])
def test_power_is_that_of_the_tests_on_right_and_wrong_answers(seeds, examples):
    """Draw differences whose noise is known, and test them as a study would."""
    rng, repetitions, half = np.random.default_rng(0), 300, 0.0125
    noise = Noise(seed_sd=0.0, example_sd=100 * math.sqrt(2 * half), shared=0.0)
    passed = 0
    for _ in range(repetitions):
        u = rng.random((seeds, examples), dtype=np.float32)
        table = (100 * ((u > 1 - half).astype(np.float32) - (u < half))).astype(np.float32)
        means = dict(enumerate(table.mean(1, dtype=np.float64).tolist()))
        passed += noninferior(Differences(means, table, 100.0), 0.5).passed
    found = power(seeds, 1, examples, 0.5, 0.95, noise).level
    error = math.sqrt(found * (1 - found) / repetitions + found * (1 - found) / 4000)
    assert abs(passed / repetitions - found) < 4 * error + 0.01


@settings(max_examples=30)
@given(
    st.integers(3, 12),
    st.integers(1, 10),
    st.one_of(st.none(), st.integers(100, 50_000)),
    st.floats(0.2, 3),
)
def test_more_of_anything_shows_more(seeds, levels, examples, margin):
    now = power(seeds, levels, examples, margin)
    assert 0 <= now.sequence <= now.level <= 1
    slack = 0.04  # four standard errors of the difference of two simulations
    assert power(seeds + 3, levels, examples, margin).level >= now.level - slack
    assert power(seeds, levels, examples, 1.5 * margin).level >= now.level - slack
    assert power(seeds, levels + 1, examples, margin).sequence <= now.sequence + slack
    if examples is not None:
        assert power(seeds, levels, 2 * examples, margin).level >= now.level - slack


def test_without_noise_everything_is_shown_and_with_too_much_nothing():
    silent = Noise(0.0, 0.0, 0.0, step=None)
    assert power(3, 10, 100, 0.5, 0.95, silent).sequence == 1.0
    assert power(3, 10, 100, 0.0, 0.95, silent).level == 0.0
    assert power(3, 2, 100, 0.5, 0.95, Noise(50.0)).level < 0.1


def test_the_numbers_of_a_plan_are_the_same_each_time_and_soon_there():
    start = time.process_time()
    first = power.__wrapped__(8, 10, 10_000, 0.5)
    assert time.process_time() - start < 2  # 0.04 s on an idle core
    assert first == power.__wrapped__(8, 10, 10_000, 0.5)


# ---- seeds that are needed


@pytest.mark.parametrize(("levels", "examples", "margin"), [(1, 10_000, 0.5), (5, None, 0.5)])
def test_the_seeds_needed_are_the_fewest(levels, examples, margin):
    needed = seeds_needed(levels, examples, margin)
    assert power(needed, levels, examples, margin).sequence >= 0.8
    assert power(needed - 1, levels, examples, margin).sequence < 0.8


def test_few_test_examples_cannot_be_made_up_for_by_seeds():
    assert seeds_needed(5, 360, 0.5) is None
    assert seeds_needed(1, 10_000, 5.0) == 3
    assert seeds_needed(1, 10_000, 5.0, most=2) is None


# ---- what the records show


def test_noise_is_observed_in_differences():
    rng, seeds, examples = np.random.default_rng(0), 40, 2000
    table = 10 * rng.standard_normal((1, examples)) + 20 * rng.standard_normal((seeds, examples))
    table = (table + 0.8 * rng.standard_normal((seeds, 1))).astype(np.float32)
    means = dict(enumerate(table.mean(1, dtype=np.float64).tolist()))
    found = observed(Differences(means, table))
    assert found.example_sd == pytest.approx(math.sqrt(500), rel=0.05)
    assert found.shared == pytest.approx(0.2, rel=0.1)
    assert found.seed_sd == pytest.approx(math.sqrt(0.64 + 400 / examples), rel=0.35)
    assert (found.step, found.origin) == (None, "observed")


def test_noise_without_examples_or_without_any_difference():
    found = observed(Differences({0: 0.1, 1: 0.3, 2: 0.2}))
    assert (found.seed_sd, found.example_sd, found.shared) == (pytest.approx(0.1), 0.0, 0.0)
    still = observed(Differences({0: 0.0, 1: 0.0}, np.zeros((2, 9), np.float32), 100.0))
    assert (still.seed_sd, still.example_sd, still.shared, still.step) == (0.0, 0.0, 0.0, 100.0)
    with pytest.raises(UsageError, match="at least two"):
        observed(Differences({0: 0.1}))


# ---- in words


def test_prospects_in_words():
    now, then = power(3, 5, None, 0.5), power(6, 5, None, 0.5)
    assert seeds_needed(5, None, 0.5) == 6
    assert prospects(3, 5, None, 0.5) == (
        f"3 seeds: a level that costs nothing is certified with a chance of {100 * now.level:.0f} "
        f"%, 5 in a row with {100 * now.sequence:.0f} %; 6 seeds would have "
        f"{100 * then.level:.0f} %, {100 * then.sequence:.0f} %"
    )


@pytest.mark.parametrize(
    ("arguments", "parts", "lacks"),
    [
        ((8, 5, None, 0.5), ["8 seeds", "5 in a row"], "would"),
        ((3, 1, 10_000, 0.5), ["a chance of", "seeds would have"], "row"),
        ((3, 5, 360, 0.5), ["20 seeds would not", "more test examples or a wider"], "have"),
        ((3, 5, None, 0.05), ["only a wider margin would"], "examples"),
        ((1, 5, None, 0.5), ["1 seed: nothing is certified with fewer than 3"], "chance"),
        ((30, 5, 360, 0.5), ["30 seeds would not"], "20"),
    ],
)
def test_prospects_say_what_would_help(arguments, parts, lacks):
    said = prospects(*arguments)
    assert all(part in said for part in parts)
    assert lacks not in said


def test_what_a_plan_counts_on_in_words():
    assert basis(ASSUMED, "points") == (
        "assumed: a standard deviation of 0.28 points between seeds, right or wrong otherwise on "
        "5 % of the test examples, 10 % of that alike for all seeds"
    )
    seen = observed(Differences({0: 0.01, 1: 0.03}, np.float32([[0.0, 0.02], [0.03, 0.03]])))
    assert basis(seen, "nats").startswith("observed: a standard deviation of 0.014 nats")
    assert "nats between test examples" in basis(seen, "nats")


# ---- bad arguments


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": 1}, "seeds is 1"),
        ({"seeds": 3.5}, "seeds"),
        ({"seeds": 10**9}, "from 2 to 1000"),
        ({"levels": 0}, "levels"),
        ({"examples": 1}, "examples is 1"),
        ({"margin": math.nan}, "margin"),
        ({"margin": -1.0}, "margin"),
        ({"confidence": 95.0}, "confidence"),
    ],
)
def test_wrong_plans_are_refused(change, message):
    plan = {"seeds": 3, "levels": 4, "examples": 1000, "margin": 0.5, "confidence": 0.95}
    with pytest.raises(UsageError, match=message):
        power(**(plan | change))


@pytest.mark.parametrize(
    "change",
    [
        {"seed_sd": -1},
        {"seed_sd": "0.3"},
        {"example_sd": math.inf},
        {"shared": 1.5},
        {"between_levels": -0.1},
        {"step": 0.0},
    ],
)
def test_wrong_noise_is_refused(change):
    with pytest.raises(UsageError, match=next(iter(change))):
        Noise(**change)


def test_the_assumption_is_what_the_documentation_says():
    assert (ASSUMED.seed_sd, ASSUMED.step) == (0.28, 100.0)
    assert ASSUMED.example_sd == pytest.approx(100 * math.sqrt(0.05))
