"""Metrics, and statistics that know which way is better."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from secateur.errors import UsageError
from secateur.measure.accuracy import evaluate
from secateur.study import statistics
from secateur.study.metrics import (
    ACCURACY,
    CROSS_ENTROPY,
    MEAN_ABSOLUTE_ERROR,
    MEAN_SQUARED_ERROR,
    Metric,
    nats,
    percent_correct,
    squared_error,
)
from secateur.study.report.findings import headline
from secateur.study.report.units import Units, measure
from secateur.study.rows import Row
from secateur.study.statistics import Interval
from secateur.study.summary import Summary, summarise
from synthetic_study import make_spec, make_trials

METRICS = (ACCURACY, CROSS_ENTROPY, MEAN_SQUARED_ERROR, MEAN_ABSOLUTE_ERROR)


def test_language_loss_is_torchs_cross_entropy() -> None:
    generator = torch.Generator().manual_seed(1)
    outputs = torch.randn((4, 7, 11), generator=generator)
    targets = torch.randint(11, (4, 7), generator=generator)
    wanted = F.cross_entropy(outputs.flatten(0, 1), targets.flatten())
    assert nats(outputs, targets).shape == (4,)
    assert float(nats(outputs, targets).mean()) == pytest.approx(float(wanted), rel=1e-6)
    flat = nats(outputs[:, 0], targets[:, 0])
    wanted_each = F.cross_entropy(outputs[:, 0], targets[:, 0], reduction="none")
    torch.testing.assert_close(flat, wanted_each)


def test_ignored_tokens_do_not_count() -> None:
    outputs = torch.randn((2, 5, 3), generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[0, 1, 2, -100, -100], [-100] * 5])
    first, second = nats(outputs, targets).tolist()
    assert first == pytest.approx(float(F.cross_entropy(outputs[0, :3], targets[0, :3])), rel=1e-6)
    assert math.isnan(second)


def test_errors_of_any_shape_are_means_over_each_example() -> None:
    outputs, targets = torch.zeros(2, 3, 2), torch.arange(12.0).reshape(2, 3, 2)
    assert MEAN_SQUARED_ERROR.function(outputs, targets).tolist() == pytest.approx(
        [55 / 6, 451 / 6]
    )
    assert MEAN_ABSOLUTE_ERROR.function(outputs, targets).tolist() == [2.5, 8.5]
    column = torch.tensor([[1.0], [4.0]])
    assert squared_error(column, torch.tensor([0.0, 2.0])).tolist() == [1.0, 4.0]
    assert squared_error(column, column).tolist() == [0.0, 0.0]


def test_accuracy_counts_examples_or_their_tokens() -> None:
    outputs = torch.eye(3)
    assert percent_correct(outputs, torch.tensor([0, 1, 0])).tolist() == [100, 100, 0]
    tokens = outputs.expand(2, 3, 3)
    assert percent_correct(tokens, torch.tensor([[0, 1, 2], [0, 0, 2]])).tolist() == pytest.approx(
        [100, 200 / 3]
    )


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_shapes_that_would_broadcast_are_refused(metric: Metric) -> None:
    with pytest.raises(UsageError, match=r"\[4, 1\].*\[3\]"):
        metric.function(torch.zeros(4, 1), torch.zeros(3, dtype=torch.long))
    with pytest.raises(UsageError, match=r"\[4, 5, 6\].*\[4, 6\]"):
        metric.function(torch.zeros(4, 5, 6), torch.zeros(4, 6, dtype=torch.long))


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_figures_are_the_same_in_any_batches(metric: Metric) -> None:
    classes = metric in (ACCURACY, CROSS_ENTROPY)
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn((10, 4, 5), generator=generator)
    targets = torch.randint(5, (10, 4), generator=generator) if classes else inputs.flip(0)
    model = torch.nn.Identity()
    whole = evaluate(model, [(inputs, targets)], metric.function)
    parts = zip(inputs.split(3), targets.split(3), strict=True)
    assert evaluate(model, parts, metric.function) == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize(
    ("function", "got"),
    [
        (lambda outputs, targets: outputs.mean(), r"gives \[\]"),
        (lambda outputs, targets: outputs, r"tensor \[3\], but this one gives \[3, 2\]"),
        (lambda outputs, targets: 1.0, "gives a float"),
    ],
)
def test_a_metric_gives_one_value_per_example(function: Any, got: str) -> None:
    model = torch.nn.Dropout()
    with pytest.raises(UsageError, match=got):
        evaluate(model, [(torch.zeros(3, 2), torch.zeros(3))], function)
    assert model.training


def test_a_model_that_gives_a_tuple_is_refused_by_name() -> None:
    class Two(torch.nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    with pytest.raises(UsageError, match="the model gives a tuple"):
        evaluate(Two(), [(torch.zeros(3, 2), torch.zeros(3))], squared_error)


@pytest.mark.parametrize("margin", [0.0, -1.0, math.inf, math.nan])
def test_a_margin_is_positive(margin: float) -> None:
    with pytest.raises(UsageError, match=r"margin is .*metric 'accuracy'"):
        replace(ACCURACY, margin=margin)


def test_only_a_metric_in_per_cent_has_a_margin_of_its_own() -> None:
    assert ACCURACY.declared == 0.5
    assert replace(ACCURACY, margin=1.0).declared == 1.0
    assert [metric.declared for metric in METRICS[1:]] == [None, None, None]


# What is negated, and said to be better the other way round, must get the mirrored verdict.


def mirrored_interval(a: Interval | None, b: Interval | None) -> bool:
    if a is None or b is None:
        return a is b
    ends = (b.low, b.high) == (
        (None, None) if a.low is None or a.high is None else (-a.high, -a.low)
    )
    return a.mean == -b.mean and a.sd == b.sd and a.n == b.n and ends


def mirrored_row(a: Row, b: Row) -> bool:
    same = ("criterion", "recovery", "keep", "n", "certified", "kept", "collapsed_layers")
    pairs = ((a.test, b.test), (a.validation, b.validation), (a.difference, b.difference))
    mirrored = b.bound if b.bound is None else -b.bound
    return (
        all(getattr(a, name) == getattr(b, name) for name in (*same, "p_value", "verdict"))
        and all(mirrored_interval(x, y) for x, y in pairs)
        and a.bound == mirrored
    )


def mirrored_test(a: statistics.Test | None, b: statistics.Test | None) -> bool:
    if a is None or b is None:
        return a is b
    return (a.p_value, a.passed, a.bound, a.mean) == (b.p_value, b.passed, -b.bound, -b.mean)


@given(
    st.lists(st.floats(-200, 200), min_size=80, max_size=80),
    st.floats(0.01, 50),
    st.booleans(),
    st.integers(2, 4),
)
def test_the_mirrored_metric_gets_the_mirrored_statistics(
    figures: list[float], margin: float, higher_is_better: bool, seeds: int
) -> None:
    def summarised(sign: float, higher: bool) -> Summary:
        spec = make_spec(
            seeds=seeds,
            criteria=("gate", "magnitude"),
            levels=(1.0, 0.5, 0.2),
            margin=margin,
            metric={"name": "score", "unit": "", "higher_is_better": higher},
        )
        trials = make_trials(spec, scores=False)
        for i, trial in enumerate(trials):
            value = sign * figures[i % len(figures)]
            trial["metrics"] = {"validation": value + sign, "test": value}
        return summarise(spec, trials)

    one = summarised(1.0, higher_is_better)
    other = summarised(-1.0, not higher_is_better)
    for rows, mirror in ((one.rows, other.rows), (one.whole, other.whole)):
        assert all(mirrored_row(a, b) for a, b in zip(rows, mirror, strict=True))
    for key, region in one.regions.items():
        assert region.certified == other.regions[key].certified
        assert region.stopped_at == other.regions[key].stopped_at
        assert region.refusal == other.regions[key].refusal
        assert region.tests.keys() == other.regions[key].tests.keys()
        for keep, test in region.tests.items():
            assert mirrored_test(test, other.regions[key].tests[keep])
    assert {key: each.keep for key, each in one.suggested.items()} == {
        key: each.keep for key, each in other.suggested.items()
    }
    for a, b in zip(one.comparisons, other.comparisons, strict=True):
        assert (a.criterion, a.other, a.keep) == (b.criterion, b.other, b.keep)
        assert mirrored_interval(a.difference, b.difference)
    spec = make_spec(criteria=("gate", "magnitude"), levels=(1.0, 0.5, 0.2))
    for found, mirror in zip(one.rows, other.rows, strict=True):
        if found.difference and mirror.difference:
            words = (
                Units.of(one).judged(found.difference.mean),
                Units.of(other).judged(mirror.difference.mean),
            )
            assert ("worse" in words[0], "better" in words[0]) == (
                *("worse" in words[1], "better" in words[1]),
            )
    assert headline(one, spec).criterion == headline(other, spec).criterion


def plain(text: str) -> str:
    return text.replace("\u00a0", " ")


def test_a_loss_that_grows_is_worse_and_one_that_falls_is_better() -> None:
    units = Units.chosen("nats", 0.02, higher_is_better=False)
    assert plain(units.judged(0.05)) == "+0.050 nats (worse)"
    assert plain(units.judged(-0.05)) == "−0.050 nats (better)"
    assert plain(units.judged(0.0001)) == "0.000 nats"
    assert plain(Units.chosen("%", 0.5, higher_is_better=True).judged(-1)) == "−1.00 points (worse)"
    assert Units.chosen("", 3e-9, higher_is_better=True).number(1.5e-9) == "0.0000000015"


def test_axes_say_unit_and_direction() -> None:
    def axis(**metric: Any) -> str:
        spec = make_spec(metric={"name": "error", "unit": "", "higher_is_better": True, **metric})
        return measure(summarise(spec, make_trials(spec)))

    assert axis() == "error"
    assert axis(unit="%") == "error (%)"
    assert axis(higher_is_better=False) == "error (lower is better)"
    assert axis(unit="K", higher_is_better=False) == "error (K, lower is better)"
