"""Differences over seeds x test examples: their error, their intervals and their tests."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from secateur.errors import UsageError
from secateur.study.statistics import (
    SEEDS,
    SEEDS_AND_EXAMPLES,
    Differences,
    differences,
    interval,
    mean_squares,
    noninferior,
    operating_region,
    t_interval,
)

TABLES = arrays.arrays(
    np.float32,
    st.tuples(st.integers(2, 6), st.integers(2, 30)),
    elements=st.floats(-8, 8, width=16),
)
OUTCOMES = arrays.arrays(
    np.float32,
    st.tuples(st.integers(2, 5), st.integers(2, 40)),
    elements=st.sampled_from([-100.0, 0.0, 0.0, 0.0, 100.0]),
)


def made(table, step=None, by_seed=None):
    table = np.asarray(table, np.float32)
    means = dict(enumerate(table.mean(1, dtype=np.float64).tolist()))
    return Differences(means if by_seed is None else by_seed, table, step)


def correct(rng, seeds, examples, chance=0.9):
    return {
        seed: (float(100 * hits.mean()), (100 * hits).astype(np.float32))
        for seed, hits in ((seed, rng.random(examples) < chance) for seed in range(seeds))
    }


# ---- the analysis of variance


@given(TABLES)
def test_mean_squares_are_those_of_a_regression_on_indicators(table):
    """Independent: residual sums of nested least-squares fits, not formulas of means."""
    seeds, examples = table.shape
    y = table.astype(np.float64).ravel()
    row = np.repeat(np.eye(seeds), examples, axis=0)
    column = np.tile(np.eye(examples), (seeds, 1))

    def left(*designs):
        x = np.hstack([np.ones((len(y), 1)), *designs])
        return float(np.square(y - x @ np.linalg.lstsq(x, y, rcond=None)[0]).sum())

    both, found = left(row, column), mean_squares(made(table))
    close = {"rel": 1e-6, "abs": 1e-7}
    assert found.seeds == pytest.approx((left(column) - both) / (seeds - 1), **close)
    assert found.examples == pytest.approx((left(row) - both) / (examples - 1), **close)
    assert found.rest == pytest.approx(both / ((seeds - 1) * (examples - 1)), **close)
    assert (found.seed_count, found.example_count) == (seeds, examples)


def test_mean_squares_by_hand():
    # Rows 1, 3 and 5, 3: means 2, 4 by row; 3, 3 by column; 3 over all.
    found = mean_squares(made([[1, 3], [5, 3]]))
    assert (found.seeds, found.examples, found.rest) == (4.0, 0.0, 4.0)


def test_mean_squares_estimate_the_variances_of_their_model():
    rng, seeds, examples, runs = np.random.default_rng(0), 4, 50, 2000
    found = [
        mean_squares(
            made(
                2.0 * rng.standard_normal((seeds, 1))
                + 0.7 * rng.standard_normal((1, examples))
                + 1.5 * rng.standard_normal((seeds, examples))
            )
        )
        for _ in range(runs)
    ]
    expected = {
        "seeds": examples * 4 + 1.5**2,
        "examples": seeds * 0.49 + 1.5**2,
        "rest": 1.5**2,
    }
    for name, value in expected.items():
        figures = np.array([getattr(each, name) for each in found])
        error = figures.std(ddof=1) / math.sqrt(runs)
        assert abs(figures.mean() - value) < 4 * error


def test_mean_squares_need_seeds_and_examples():
    with pytest.raises(UsageError, match="two seeds"):
        mean_squares(made([[0.0, 1.0]]))
    with pytest.raises(UsageError, match="by example"):
        mean_squares(Differences({0: 1.0, 1: 2.0}))


# ---- intervals


def test_an_interval_by_the_formula():
    rng = np.random.default_rng(3)
    table = rng.standard_normal((5, 1)) + rng.standard_normal((1, 200)) * 3
    table = (table + rng.standard_normal((5, 200))).astype(np.float32)
    found, squares = interval(made(table), 0.9), mean_squares(made(table))
    total = squares.seeds + squares.examples - squares.rest
    assert squares.seeds > squares.rest
    assert squares.examples > squares.rest
    degrees = total**2 / (squares.seeds**2 / 4)
    half = stats.t.ppf(0.95, degrees) * math.sqrt(total / 1000)
    assert found.covers == SEEDS_AND_EXAMPLES
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half))
    assert found.mean == pytest.approx(table.mean(), rel=1e-6)
    assert found.sd == pytest.approx(table.mean(1, dtype=np.float64).std(ddof=1))
    assert (found.n, found.confidence) == (5, 0.9)


@given(TABLES, st.floats(0.5, 0.99))
def test_an_interval_over_examples_too_is_wider_than_seeds_that_spread_say(table, confidence):
    """New examples can only add to the error, but for the degrees of freedom that they bring."""
    given_ = made(table)
    found, squares = interval(given_, confidence), mean_squares(given_)
    assert found.low <= found.mean <= found.high
    least = math.sqrt(squares.between_seeds / squares.seed_count / squares.example_count)
    half = stats.norm.ppf((1 + confidence) / 2) * least
    assert found.high - found.mean >= half * (1 - 1e-6) - 1e-9
    by_seeds = t_interval(given_.by_seed, confidence)
    assert found.sd == by_seeds.sd


@given(OUTCOMES)
def test_no_width_only_where_all_differences_are_equal(table):
    found = interval(made(table))
    equal = bool((table == table[0, 0]).all())
    assert (found.low == found.high) == equal


def test_seeds_that_agree_on_every_example_are_one_observation_of_each():
    one = np.zeros(400, np.float32)
    one[:8], one[8:18] = -100, 100
    found = interval(made(np.tile(one, (3, 1))))
    half = stats.t.ppf(0.975, 399) * one.std(ddof=1) / 20
    assert found.sd == 0
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half), rel=1e-5)


def test_no_disagreement_at_all_has_width_where_the_step_is_known():
    found = interval(made(np.zeros((3, 360)), step=100.0), 0.9)
    wilson = stats.binomtest(0, 360).proportion_ci(0.9, method="wilson")
    assert found.low == pytest.approx(-100 * wilson.high)
    assert (found.high, found.mean) == (pytest.approx(100 * wilson.high), 0.0)
    assert noninferior(made(np.zeros((3, 360)), step=100.0), 0.5).bound == pytest.approx(
        -0.7459, abs=1e-4
    )


@given(st.integers(0, 40), st.floats(0.6, 0.98))
def test_where_disagreements_are_few_the_bound_is_never_inside_wilsons(lost, confidence):
    table = np.zeros((3, 400), np.float32)
    table[:, :lost] = -100
    found = interval(made(table, step=100.0), confidence)
    wilson = stats.binomtest(lost, 400).proportion_ci(confidence, method="wilson")
    assert found.low <= -100 * wilson.high * (1 - 1e-9)


def test_without_examples_it_is_students_interval_and_says_so():
    by_seed = {0: 0.1, 1: -0.2, 2: 0.4}
    found, student = interval(Differences(by_seed), 0.9), t_interval(by_seed, 0.9)
    assert found.covers == student.covers == SEEDS
    assert (found.low, found.high) == pytest.approx((student.low, student.high), rel=1e-12)
    assert (found.mean, found.sd, found.n) == (student.mean, student.sd, 3)


def test_one_seed_has_no_interval():
    found = interval(made([[0.0, 1.0]]))
    assert (found.mean, found.sd, found.low, found.high) == (0.5, None, None, None)
    with pytest.raises(UsageError, match="two seeds"):
        noninferior(made([[0.0, 1.0]]), 0.5)


# ---- tests


@settings(max_examples=200)
@given(st.one_of(TABLES, OUTCOMES), st.floats(0, 60), st.floats(0.5, 0.99), st.booleans())
def test_bound_p_value_and_verdict_say_the_same(table, margin, confidence, known):
    outcomes = bool(np.isin(table, (-100, 0, 100)).all())
    given_ = made(table, step=100.0 if known and outcomes else None)
    test = noninferior(given_, margin, confidence)
    assert test.covers == SEEDS_AND_EXAMPLES
    assert test.passed == (test.bound > -margin)
    if abs(test.bound + margin) > 1e-6 and abs(test.p_value - (1 - confidence)) > 1e-9:
        assert test.passed == (test.p_value < 1 - confidence)


@given(OUTCOMES, st.floats(0, 60), st.floats(0.5, 0.99))
def test_signs_are_mirrored_where_lower_is_better(table, margin, confidence):
    up = noninferior(made(table, step=100.0), margin, confidence)
    down = noninferior(made(-table, step=100.0), margin, confidence, higher_is_better=False)
    assert (down.mean, down.bound) == (-up.mean, -up.bound)
    assert (down.p_value, down.passed) == (up.p_value, up.passed)


@given(OUTCOMES, st.floats(0, 60), st.floats(0, 60), st.floats(0.5, 0.99))
def test_a_wider_margin_never_makes_a_test_fail(table, margin, more, confidence):
    strict = noninferior(made(table, step=100.0), margin, confidence)
    loose = noninferior(made(table, step=100.0), margin + more, confidence)
    assert loose.passed or not strict.passed
    assert loose.p_value <= strict.p_value * (1 + 1e-9)


@given(TABLES, st.floats(0.55, 0.99), st.sampled_from([2.0, 0.25, 64.0]))
def test_the_bound_is_an_end_of_the_interval_in_any_unit_and_order(table, confidence, scale):
    rng = np.random.default_rng(0)
    bound = noninferior(made(table), 1.0, confidence).bound
    assert bound == pytest.approx(interval(made(table), 2 * confidence - 1).low, abs=1e-9)
    moved = table[rng.permutation(len(table))][:, rng.permutation(table.shape[1])]
    for other, factor in ((moved, 1.0), (table * np.float32(scale), scale)):
        again = noninferior(made(other), 1.0, confidence).bound
        assert again == pytest.approx(factor * bound, rel=1e-5, abs=1e-5 * factor)


def test_a_region_of_differences_with_examples():
    rng = np.random.default_rng(0)
    reference = correct(rng, 3, 4000)

    def level(lost):
        return differences(
            {
                seed: (float(cut.mean()), cut)
                for seed, (_, scores) in reference.items()
                for cut in [np.where(rng.random(4000) < lost, np.float32(0), scores)]
            },
            reference,
        )

    region = operating_region({0.9: level(0.0005), 0.5: level(0.001), 0.1: level(0.05)}, 0.5)
    assert region.certified == (0.9, 0.5)
    assert {test.covers for test in region.tests.values()} == {SEEDS_AND_EXAMPLES}
    assert "3 are needed" in operating_region({0.5: made(np.zeros((2, 9)))}, 0.5).refusal


# ---- differences


def test_differences_are_paired_by_seed_and_example():
    a = {2: (75.0, np.float32([100, 0, 100, 100])), 0: (50.0, np.float32([0, 0, 100, 100]))}
    b = {
        0: (75.0, np.float32([100, 0, 100, 100])),
        2: (100.0, np.float32([100] * 4)),
        7: (1.0, None),
    }
    found = differences(a, b)
    assert found.by_seed == {0: -25.0, 2: -25.0}
    assert found.examples.tolist() == [[-100, 0, 0, 0], [0, -100, 0, 0]]
    assert (found.examples.dtype, found.step, len(found)) == (np.float32, 100.0, 2)


def test_means_are_subtracted_as_decimals():
    scores = np.zeros(10_000, np.float32)
    a, b = scores.copy(), scores.copy()
    a[:8780], b[:8810] = 100, 100
    found = differences({0: (87.8, a)}, {0: (88.1, b)})
    assert found.by_seed == {0: -0.3}


@pytest.mark.parametrize(
    "other",
    [
        {0: (50.0, None), 1: (50.0, np.float32([0, 100]))},
        {0: (50.0, np.float32([0, 100, 50])), 1: (50.0, np.float32([0, 100]))},
        {0: (50.0, np.float32([50])), 1: (50.0, np.float32([50]))},
    ],
    ids=["one has none", "of other lengths", "of one example"],
)
def test_scores_count_only_where_all_have_them(other):
    a = {0: (100.0, np.float32([100, 100])), 1: (100.0, np.float32([100, 100]))}
    found = differences(a, other)
    assert (found.examples, found.step, found.by_seed) == (None, None, {0: 50.0, 1: 50.0})


@pytest.mark.parametrize(
    ("first", "second", "step"),
    [
        ([0, 100], [100, 0], 100.0),
        ([100, 100], [100, 100], 100.0),
        ([0, 0], [0, 0], None),
        ([1, 3], [3, 1], 2.0),
        ([0, 50], [100, 0], None),
    ],
)
def test_the_step_is_that_of_two_values(first, second, step):
    a, b = np.float32(first), np.float32(second)
    assert differences({0: (float(a.mean()), a)}, {0: (float(b.mean()), b)}).step == step


@pytest.mark.parametrize(
    ("by_seed", "examples", "step", "message"),
    [
        ({}, None, None, "no values"),
        ({3: math.nan}, None, None, "seed 3 is nan"),
        ({0: 0.0}, np.zeros((2, 3), np.float32), None, r"must be float32 \[1, N\]"),
        ({0: 0.0}, np.zeros((1, 3)), None, "float64"),
        ({0: 0.0}, np.zeros((1, 1), np.float32), None, "at least two examples"),
        ({4: 0.0}, np.float32([[0, math.nan]]), None, "seed 4"),
        ({4: 1.0}, np.float32([[1, 2]]), None, "seed 4 has the mean difference 1, .* have 1.5"),
        ({0: 0.0}, None, 0.0, "step"),
    ],
)
def test_wrong_differences_are_refused(by_seed, examples, step, message):
    with pytest.raises(UsageError, match=message):
        Differences(by_seed, examples, step)


def test_scores_of_another_measurement_are_found():
    with pytest.raises(UsageError, match="seed 5"):
        differences(
            {5: (50.0, np.float32([100, 100]))},
            {5: (50.0, np.float32([100, 0]))},
        )
