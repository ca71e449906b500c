import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from secateur.errors import UsageError
from secateur.study.statistics import (
    noninferior,
    operating_region,
    paired,
    paired_interval,
    t_interval,
)

figures = st.lists(st.floats(-1e3, 1e3).map(lambda x: round(x, 4)), min_size=2, max_size=8)
margins = st.floats(0, 10)
KEEPS = (0.9, 0.7, 0.5, 0.3, 0.1)


# ---- intervals


@pytest.mark.parametrize("n", [2, 3, 5, 30])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
def test_interval_agrees_with_scipy(n, confidence):
    values = np.random.default_rng(n).normal(88, 0.3, n)
    interval = t_interval(values, confidence)
    reference = stats.ttest_1samp(values, 0.0).confidence_interval(confidence)
    assert interval.mean == pytest.approx(values.mean(), rel=1e-12)
    assert interval.sd == pytest.approx(values.std(ddof=1), rel=1e-9)
    assert (interval.low, interval.high) == pytest.approx(tuple(reference), rel=1e-9)
    assert (interval.n, interval.confidence) == (n, confidence)


def test_interval_by_hand():
    # t(2; 0.975) = 4.302652729696 from any table; sd of 1, 2, 3 is 1.
    interval = t_interval([1.0, 2.0, 3.0])
    assert (interval.mean, interval.sd) == (2.0, 1.0)
    assert interval.high == pytest.approx(2 + 4.302652729696 / math.sqrt(3), rel=1e-10)


def test_one_value_has_no_spread():
    interval = t_interval([88.5])
    assert (interval.mean, interval.sd, interval.low, interval.high) == (88.5, None, None, None)


@pytest.mark.parametrize("n", [2, 3, 7])
def test_equal_values_have_exactly_no_spread(n):
    interval = t_interval([0.1] * n)  # three times 0.1 is not 0.3 in binary
    assert (interval.mean, interval.sd, interval.low, interval.high) == (0.1, 0.0, 0.1, 0.1)


@given(figures, st.floats(-1e3, 1e3), st.floats(0.01, 100))
def test_interval_moves_and_stretches_with_its_values(values, shift, scale):
    before = t_interval(values)
    after = t_interval([scale * x + shift for x in values])
    for part in ("mean", "low", "high"):
        assert getattr(after, part) == pytest.approx(
            scale * getattr(before, part) + shift, rel=1e-7, abs=1e-7
        )
    assert after.sd == pytest.approx(scale * before.sd, rel=1e-7, abs=1e-7)


@given(figures, st.floats(0.5, 0.99), st.floats(0.001, 0.009))
def test_more_confidence_is_wider_and_every_interval_holds_its_mean(values, confidence, more):
    narrow, wide = t_interval(values, confidence), t_interval(values, confidence + more)
    assert wide.low <= narrow.low <= narrow.mean <= narrow.high <= wide.high
    assert min(values) <= narrow.mean <= max(values)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0, math.nan])
def test_confidence_is_a_fraction(confidence):
    with pytest.raises(UsageError, match="confidence"):
        t_interval([1.0, 2.0], confidence)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_named(bad):
    with pytest.raises(UsageError, match=f"value 1 is {bad}"):
        t_interval([1.0, bad, 2.0])
    with pytest.raises(UsageError, match=f"seed 7 is {bad}"):
        noninferior({3: 0.1, 7: bad}, 0.5)
    with pytest.raises(UsageError, match=f"seed 4 is {bad}"):
        paired({3: 1.0, 4: bad}, {3: 1.0, 4: 2.0})
    with pytest.raises(UsageError, match=f"seed 2 is {bad}"):
        operating_region({0.5: {0: 0.0, 1: 0.1, 2: bad}}, 0.5)


def test_no_values():
    with pytest.raises(UsageError, match="no values"):
        t_interval([])


# ---- pairs


def test_pairs_are_made_by_seed():
    assert paired({2: 5.0, 0: 1.0, 9: 4.0}, {0: 3.0, 1: 2.0, 2: 4.5}) == {0: -2.0, 2: 0.5}
    assert list(paired({2: 5.0, 0: 1.0}, {2: 0.0, 0: 0.0})) == [0, 2]


def test_differences_are_those_of_the_decimals():
    assert 87.8 - 88.1 > -0.3
    dense = {0: 88.1, 1: 88.6, 2: 99.99}
    cut = {0: 87.8, 1: 88.3, 2: 99.69}
    assert paired(cut, dense) == {0: -0.3, 1: -0.3, 2: -0.3}
    # A rounding error would certify a loss of exactly the margin.
    assert not noninferior(paired(cut, dense), 0.3).passed


@given(st.dictionaries(st.integers(0, 9), st.tuples(*[st.floats(-1e6, 1e6)] * 2), min_size=1))
def test_difference_is_the_floats_difference_but_for_rounding(both):
    a = {seed: x for seed, (x, _) in both.items()}
    b = {seed: y for seed, (_, y) in both.items()}
    for seed, difference in paired(a, b).items():
        assert difference == pytest.approx(a[seed] - b[seed], rel=1e-9, abs=1e-9)


def test_no_common_seed():
    with pytest.raises(UsageError, match=r"seeds 0, 1, .*seeds 2"):
        paired({0: 1.0, 1: 1.0}, {2: 1.0})
    with pytest.raises(UsageError, match="none"):
        paired_interval({0: 1.0}, {})


def test_paired_interval_agrees_with_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.normal(80, 2, 6), rng.normal(79, 2, 6)
    interval = paired_interval(dict(enumerate(a)), dict(enumerate(b)), 0.9)
    reference = stats.ttest_rel(a, b).confidence_interval(0.9)
    assert (interval.low, interval.high) == pytest.approx(tuple(reference), rel=1e-9)


# ---- non-inferiority


@pytest.mark.parametrize("n", [2, 3, 5, 30])
@pytest.mark.parametrize("mean", [-0.6, -0.3, 0.0])
def test_noninferiority_agrees_with_scipy(n, mean):
    differences = np.random.default_rng(n).normal(mean, 0.2, n)
    test = noninferior(differences, 0.5, 0.9)
    reference = stats.ttest_1samp(differences, -0.5, alternative="greater")
    assert test.p_value == pytest.approx(reference.pvalue, rel=1e-8)
    assert test.bound == pytest.approx(reference.confidence_interval(0.9).low, rel=1e-7)
    assert test.passed == (reference.pvalue < 0.1)
    assert (test.mean, test.n) == (pytest.approx(differences.mean()), n)


def test_lower_is_better_agrees_with_scipy():
    rises = np.random.default_rng(1).normal(0.02, 0.01, 5)  # of a loss
    test = noninferior(rises, 0.05, higher_is_better=False)
    reference = stats.ttest_1samp(rises, 0.05, alternative="less")
    assert test.p_value == pytest.approx(reference.pvalue, rel=1e-8)
    assert test.bound == pytest.approx(reference.confidence_interval(0.95).high, rel=1e-7)
    assert test.passed
    assert test.mean == pytest.approx(rises.mean())


@given(figures, margins)
def test_signs_are_mirrored_where_lower_is_better(differences, margin):
    up = noninferior(differences, margin)
    down = noninferior([-x for x in differences], margin, higher_is_better=False)
    assert (down.mean, down.bound) == (-up.mean, -up.bound)
    assert (down.p_value, down.passed) == (up.p_value, up.passed)


@given(figures, margins, margins, st.floats(0.5, 0.99))
def test_a_wider_margin_never_makes_a_test_fail(differences, margin, more, confidence):
    strict = noninferior(differences, margin, confidence)
    loose = noninferior(differences, margin + more, confidence)
    assert loose.passed or not strict.passed
    assert loose.p_value <= strict.p_value * (1 + 1e-9)
    assert loose.bound == strict.bound


@given(figures, margins, st.floats(0.5, 0.99))
def test_bound_and_p_value_say_the_same(differences, margin, confidence):
    test = noninferior(differences, margin, confidence)
    if abs(test.bound + margin) > 1e-6 and test.p_value != pytest.approx(1 - confidence):
        assert test.passed == (test.p_value < 1 - confidence)
    assert test.passed == (test.bound > -margin)


@pytest.mark.parametrize(
    ("loss", "passed"), [(0.0, True), (-0.4999, True), (-0.5, False), (-0.6, False)]
)
def test_without_spread_the_test_is_exact(loss, passed):
    test = noninferior([loss] * 3, 0.5)
    assert (test.mean, test.bound, test.passed) == (loss, loss, passed)
    assert test.p_value == (0.0 if passed else 1.0)


def test_one_difference_cannot_be_tested():
    with pytest.raises(UsageError, match="two seeds"):
        noninferior([0.0], 0.5)


@pytest.mark.parametrize("margin", [-0.1, math.nan, math.inf])
def test_margin_is_finite_and_not_negative(margin):
    with pytest.raises(UsageError, match="margin"):
        noninferior([0.0, 0.1], margin)


# ---- the operating region


def test_region_stops_at_the_first_failure():
    good, bad = [0.0, 0.1, -0.1], [-3.0, -3.1, -2.9]
    region = operating_region({0.1: good, 0.9: good, 0.3: bad, 0.5: good}, 0.5)
    assert region.certified == (0.9, 0.5)
    assert region.lowest_keep == 0.5
    assert region.stopped_at == 0.3
    assert region.refusal is None
    assert list(region.tests) == [0.9, 0.5, 0.3, 0.1]
    assert region.tests[0.9].passed
    assert not region.tests[0.3].passed
    assert region.tests[0.1] is None  # it would have passed, and is not looked at


def test_region_of_all_levels_and_of_none():
    everything = operating_region({0.5: {0: 0.0, 1: 0.1, 2: 0.2}, 0.1: [0.0, 0.1, 0.0]}, 0.5)
    assert (everything.certified, everything.stopped_at) == ((0.5, 0.1), None)
    nothing = operating_region({0.5: [-1.0, -1.1, -1.2], 0.1: [0.0, 0.1, 0.0]}, 0.5)
    assert (nothing.certified, nothing.lowest_keep, nothing.stopped_at) == ((), None, 0.5)


def test_region_where_lower_is_better():
    region = operating_region(
        {0.5: [-0.1, -0.11, -0.09], 0.1: [0.3, 0.31, 0.29]}, 0.05, higher_is_better=False
    )
    assert region.certified == (0.5,)


def test_too_few_seeds_are_refused():
    region = operating_region({0.5: [0.0, 0.0], 0.1: [0.0, 0.0]}, 0.5)
    assert (region.certified, region.lowest_keep, region.stopped_at) == ((), None, 0.5)
    assert region.tests == {0.5: None, 0.1: None}
    for part in ("2 seeds", "3 are needed", "--seeds"):
        assert part in region.refusal


def test_a_level_with_too_few_seeds_ends_the_sequence():
    good = [0.0, 0.1, -0.1]
    region = operating_region({0.9: good, 0.5: good[:2], 0.3: good, 0.1: []}, 0.5)
    assert region.certified == (0.9,)
    assert region.stopped_at == 0.5
    assert "0.5" in region.refusal


def test_minimum_of_seeds_can_be_raised_but_not_below_two():
    good = [0.0, 0.1, -0.1]
    assert "5 are needed" in operating_region({0.5: good}, 0.5, minimum_seeds=5).refusal
    assert operating_region({0.5: good[:2]}, 9.0, minimum_seeds=2).certified == (0.5,)
    with pytest.raises(UsageError, match="minimum_seeds"):
        operating_region({0.5: good}, 0.5, minimum_seeds=1)


@pytest.mark.parametrize("keep", [0.0, 1.5, -0.1, math.nan])
def test_levels_are_keep_ratios(keep):
    with pytest.raises(UsageError, match="keep ratio"):
        operating_region({keep: [0.0, 0.1, 0.2]}, 0.5)


def test_no_levels():
    with pytest.raises(UsageError, match="no levels"):
        operating_region({}, 0.5)


@given(
    st.dictionaries(
        st.floats(0.01, 1),
        st.lists(st.floats(-1, 1).map(lambda x: round(x, 3)), min_size=0, max_size=5),
        min_size=1,
        max_size=6,
    ),
    margins,
    margins,
)
def test_region_is_the_longest_run_of_passed_tests(levels, margin, more):
    region = operating_region(levels, margin)
    order = sorted(levels, reverse=True)
    reached = len(region.certified)
    assert region.certified == tuple(order[:reached])
    assert region.lowest_keep == (order[reached - 1] if reached else None)
    assert region.stopped_at == (order[reached] if reached < len(order) else None)
    for keep in region.certified:
        assert region.tests[keep] == noninferior(levels[keep], margin)
        assert region.tests[keep].passed
    if region.stopped_at is not None:
        failed = region.tests[region.stopped_at]
        assert (region.refusal is not None) if failed is None else not failed.passed
    assert all(region.tests[keep] is None for keep in order[reached + 1 :])
    assert operating_region(levels, margin + more).certified[:reached] == region.certified


# ---- do the promises hold? Simulations of the public functions, against their Monte-Carlo error


def _standard_error(p, repetitions):
    return math.sqrt(p * (1 - p) / repetitions)


@pytest.mark.parametrize("n", [3, 5])
def test_a_95_percent_interval_holds_the_truth_95_percent_of_the_time(n):
    repetitions = 20_000
    samples = np.random.default_rng(n).normal(88.0, 0.3, (repetitions, n)).tolist()
    intervals = map(t_interval, samples)
    coverage = sum(i.low <= 88.0 <= i.high for i in intervals) / repetitions
    assert abs(coverage - 0.95) < 4 * _standard_error(0.95, repetitions)


def _studies(repetitions, seeds, losses, noise, dense_noise):
    """Differences from dense [repetitions, levels, seeds] of simulated studies.

    `losses` are the true losses by level. The levels of a study share the noise of dense.
    """
    rng = np.random.default_rng(0)
    dense = rng.normal(0.0, dense_noise, (repetitions, 1, seeds)) if dense_noise else 0.0
    cut = rng.normal(0.0, noise, (repetitions, len(losses), seeds))
    return (cut - dense - np.array(losses)[:, None]).tolist()


def _certified(studies, margin=0.5, confidence=0.95, sign=1.0):
    """The number of certified levels of each study."""
    higher = sign > 0
    return [
        len(
            operating_region(
                {k: [sign * x for x in d] for k, d in zip(KEEPS, study, strict=False)},
                margin,
                confidence,
                higher_is_better=higher,
            ).certified
        )
        for study in studies
    ]


INFERIOR = [  # the margin is 0.5, and a level that loses as much is inferior
    pytest.param(
        {"seeds": 3, "losses": (0.5, 0.8, 1.5), "noise": 0.2, "dense_noise": 0.2},
        0.95,
        id="first level at the margin",
    ),
    pytest.param(
        {"seeds": 5, "losses": (0.0, 0.2, 0.5, 1.0), "noise": 0.2, "dense_noise": 0.2},
        0.95,
        id="third level at the margin",
    ),
    pytest.param(
        {"seeds": 5, "losses": (0.0, 0.5, 0.5, 0.5, 0.5), "noise": 0.1, "dense_noise": 0.0},
        0.95,
        id="many, independent",
    ),
    pytest.param(
        {"seeds": 3, "losses": (0.0, 0.5, 0.5, 0.5, 0.5), "noise": 0.02, "dense_noise": 0.3},
        0.95,
        id="many, correlated",
    ),
    pytest.param(
        {"seeds": 4, "losses": (0.5, 0.0, 0.5, 0.0, 0.5), "noise": 0.1, "dense_noise": 0.1},
        0.9,
        id="not monotonic",
    ),
]


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["higher", "lower"])
@pytest.mark.parametrize(("study", "confidence"), INFERIOR)
def test_an_inferior_level_is_certified_no_more_often_than_promised(study, confidence, sign):
    repetitions = 2_000
    first_inferior = next(i for i, loss in enumerate(study["losses"]) if loss >= 0.5)
    reached = _certified(_studies(repetitions, **study), 0.5, confidence, sign)
    wrong = sum(count > first_inferior for count in reached) / repetitions
    error = 1 - confidence
    assert wrong <= error + 4 * _standard_error(error, repetitions)


def test_at_the_margin_the_error_rate_is_used_up_exactly():
    repetitions = 10_000
    reached = _certified(_studies(repetitions, 3, (0.5,), 0.2, 0.2))
    wrong = sum(reached) / repetitions
    assert abs(wrong - 0.05) < 4 * _standard_error(0.05, repetitions)


@pytest.mark.parametrize(("seeds", "power"), [(3, 0.97), (4, 0.999), (5, 0.999)])
def test_levels_as_good_as_dense_are_nearly_always_certified(seeds, power):
    # Differences with a standard deviation of 0.1 and no true loss, five levels.
    repetitions = 1_000
    shared = 0.1 / math.sqrt(2)
    reached = _certified(_studies(repetitions, seeds, (0.0,) * 5, shared, shared))
    assert sum(count == 5 for count in reached) / repetitions >= power
