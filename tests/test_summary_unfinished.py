"""What is concluded from a study that is unfinished, or has records that are odd."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.errors import StudyError
from secateur.study.rows import csv_rows
from secateur.study.summary import summarise
from study_records import plan, record, row_of, trials, without

WHOLE = 3 * (1 + 3 + 3 + 3)
"""Trials of the plan: of each seed the start, three uncut networks, and two curves."""


def test_nothing_done_yet():
    spec = plan()
    summary = summarise(spec, [])
    assert (summary.whole, summary.rows, summary.comparisons) == ((), (), ())
    assert len(summary.missing) == WHOLE
    assert summary.suggested == {}
    assert summary.start is None
    assert all(region.certified == () for region in summary.regions.values())
    assert len(csv_rows(summary.lines)) == 1


def test_missing_trials_are_named_and_stop_the_certificate():
    spec = plan(seeds=5)
    found = without(trials(spec), criterion="gate", keep=0.1, seed=4)
    summary = summarise(spec, found)
    assert summary.missing == ("seed-4_gate_keep-0.1_ladder",)
    row = row_of(summary, "gate", 0.1)
    assert (row.n, row.difference.n, row.bound) == (4, 4, None)
    region = summary.regions["gate", "ladder"]
    assert region.certified == (0.5,)  # all of its seeds are there: its test is final
    assert "4 seeds" in region.refusal
    assert "5 are needed" in region.refusal


def test_fewer_than_three_seeds_give_curves_but_no_certificate():
    spec = plan(seeds=2)
    summary = summarise(spec, trials(spec))
    assert (len(summary.whole), len(summary.rows)) == (4, 6)
    assert summary.missing == ()
    assert not any(row.certified for row in summary.rows)
    assert "--seeds" in summary.regions["gate", "ladder"].refusal


def test_one_seed():
    spec = plan(seeds=1)
    summary = summarise(spec, trials(spec))
    assert row_of(summary, "gate", 0.5).test.low is None
    assert row_of(summary, "gate", 0.5).difference.sd is None
    assert summary.suggested["gate", "ladder"].keep == 0.1
    assert len(csv_rows(summary.lines)) == 1 + 4 + 6


@given(st.sets(st.integers(0, WHOLE - 1)))
def test_any_part_of_a_study_can_be_summarised(kept):
    spec = plan()
    found = [each for i, each in enumerate(trials(spec)) if i in kept]
    summary = summarise(spec, found)
    assert len(summary.missing) + len(found) == WHOLE
    assert sum(row.n for row in summary.lines) == len(found)
    assert len(csv_rows(summary.lines)) == 1 + len(summary.rows) + len(summary.whole)
    whole = summarise(spec, trials(spec))
    for key, region in summary.regions.items():  # no level is certified early
        assert region.certified == whole.regions[key].certified[: len(region.certified)]


@pytest.mark.parametrize("bad", [math.nan, math.inf, None])
def test_a_trial_without_a_finite_figure_is_named_and_never_certified(bad):
    spec = plan()
    found = trials(spec)
    for each in found:
        if each["trial"] == {"seed": 1, "criterion": "gate", "keep": 0.5, "recovery": "ladder"}:
            each["metrics"]["test"] = bad
    summary = summarise(spec, found)
    assert summary.invalid == ("seed-1_gate_keep-0.5_ladder",)
    assert summary.missing == ()
    assert row_of(summary, "gate", 0.5).n == 2
    assert summary.regions["gate", "ladder"].certified == ()
    assert summary.regions["random", "batchnorm"].certified == (0.5,)


def test_records_outside_the_plan_are_named_and_left_out():
    spec = plan()
    found = trials(spec)
    strays = [record("lamp", "ladder", 0.5, 0, 1.0), record("gate", "none", 0.5, 9, 99.0)]
    summary = summarise(spec, [*found, *strays])
    assert summary.unplanned == ("seed-0_lamp_keep-0.5_ladder", "seed-9_gate_keep-0.5_none")
    assert summary.lines == summarise(spec, found).lines


@pytest.mark.parametrize("field", ["trial", "metrics", "weights"])
def test_a_record_that_lacks_a_field_is_named(field):
    broken = record("gate", "ladder", 0.5, 1, 80.0)
    del broken[field]
    with pytest.raises(StudyError, match=f"no field '{field}'"):
        summarise(plan(), [broken])
