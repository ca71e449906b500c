import csv
import io
import random
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.study.rows import chance_limit, csv_rows, estimated_bytes
from secateur.study.statistics import (
    noninferior,
    operating_region,
    paired,
    paired_interval,
    t_interval,
)
from secateur.study.summary import summarise
from study_records import LOSS, NOISE, dense_test, plan, record, row_of, trials, without


def test_rows_carry_the_figures_of_the_statistics():
    spec = plan()
    found = trials(spec)
    summary = summarise(spec, found)
    tests = {
        r["trial"]["seed"]: r["metrics"]["test"]
        for r in found
        if (r["trial"]["criterion"], r["trial"]["keep"], r["trial"]["recovery"])
        == ("gate", 0.1, "none")
    }
    dense = {seed: dense_test(seed) for seed in spec["seeds"]}
    row = row_of(summary, "gate", 0.1)
    assert row.test == t_interval(tests)
    assert row.validation.mean == pytest.approx(row.test.mean + 0.5)
    assert row.difference == paired_interval(tests, dense)
    assert row.difference.sd < row.test.sd / 3  # the seeds' own noise is paired away
    test = noninferior(paired(tests, dense), 0.5)
    assert summary.regions["gate", "none"].tests[0.1] == test
    assert (row.bound, row.p_value, row.certified) == (test.bound, test.p_value, test.passed)
    assert (row.keep, row.sparsity, row.n) == (0.1, 0.9, 3)
    assert (row.kept, row.prunable, row.parameters) == (100, 1000, 1100)
    assert row.estimated_bytes == 125 + 4 * 100 + 4 * 100
    assert row.dense_recovery == "none"


def test_rows_stand_in_the_order_of_the_spec_whatever_the_order_of_the_records():
    spec = plan()
    found = trials(spec)
    summary = summarise(spec, found)
    assert [(r.criterion, r.recovery, r.keep) for r in summary.rows] == [
        (criterion, recovery, keep)
        for criterion in ("gate", "random")
        for recovery in ("none", "batchnorm")
        for keep in (0.5, 0.1, 0.02)
    ]
    random.Random(0).shuffle(found)
    assert summarise(spec, found) == summary


def test_dense_has_a_row_per_recovery():
    summary = summarise(plan(), trials(plan()))
    assert [row.recovery for row in summary.dense] == ["none", "batchnorm"]
    for row in summary.dense:
        assert (row.criterion, row.keep, row.sparsity, row.n) == ("dense", 1.0, 0.0, 3)
        assert row.test == t_interval([dense_test(seed) for seed in range(3)])
        assert row.difference is None
        assert row.estimated_bytes == 4 * 1100


def test_region_certifies_and_stops():
    summary = summarise(plan(), trials(plan()))
    region = summary.regions["gate", "batchnorm"]
    assert (region.certified, region.lowest_keep, region.stopped_at) == ((0.5, 0.1), 0.1, 0.02)
    certified = {r.keep: r.certified for r in summary.rows if r.criterion == "gate"}
    assert certified == {0.5: True, 0.1: True, 0.02: False}
    random_row = row_of(summary, "random", 0.02)
    assert summary.regions["random", "none"].certified == (0.5,)
    assert (random_row.bound, random_row.p_value) == (None, None)  # the sequence stopped before it
    assert random_row.verdict == "not tested"
    assert not random_row.certified


def test_comparisons_are_gate_minus_each_other_criterion():
    spec = plan()
    summary = summarise(spec, trials(spec))
    assert len(summary.comparisons) == 1 * 2 * 3
    comparison = summary.comparisons[1]
    assert (comparison.criterion, comparison.other) == ("gate", "random")
    assert (comparison.recovery, comparison.keep) == ("none", 0.1)
    assert comparison.difference.mean == pytest.approx(19.8, abs=0.2)
    assert comparison.difference.n == 3


def test_the_gate_is_compared_with_dense_trained_on_for_as_long():
    spec = plan(levels=[1.0, 0.5])
    found = summarise(spec, trials(spec)).comparisons
    control = {(c.recovery, c.keep): c.difference for c in found if c.other == "control"}
    assert set(control) == {(r, keep) for r in ("none", "batchnorm") for keep in (1.0, 0.5)}
    at_once = {(c.recovery, c.keep): c.difference for c in found if c.other == "random"}
    # Uncut, the criterion that is cut from the control is the control.
    assert control["none", 1.0] == at_once["none", 1.0]
    assert control["none", 0.5].mean < at_once["none", 0.5].mean


def test_without_gates_there_is_nothing_to_compare():
    spec = plan(criteria=["random"])
    assert summarise(spec, trials(spec)).comparisons == ()


# ---- what is chosen


def test_the_suggestion_is_made_on_validation_data_and_reports_test_data():
    spec = plan(criteria=["gate"], recovery=["none"])
    found = [record("dense", "none", 1.0, s, test=88.0, validation=90.0) for s in range(3)]
    for seed in range(3):
        found.append(record("gate", "none", 0.5, seed, test=88.0, validation=90.0))
        found.append(record("gate", "none", 0.1, seed, test=70.0, validation=89.6))
        found.append(record("gate", "none", 0.02, seed, test=88.0, validation=89.5))
    summary = summarise(spec, found)
    suggestion = summary.suggested["gate", "none"]
    assert suggestion.keep == 0.1  # at 0.02 the loss is the margin, which is not below it
    assert suggestion.validation.mean == pytest.approx(-0.4)
    assert suggestion.row == row_of(summary, "gate", 0.1)
    assert suggestion.row.test.mean == 70.0
    assert not suggestion.row.certified


def test_no_suggestion_where_every_level_loses_too_much():
    spec = plan(levels=[0.02])
    assert summarise(spec, trials(spec)).suggested == {}


def test_lower_is_better():
    metric = {"name": "loss", "unit": "nats", "higher_is_better": False}
    spec = plan(metric=metric, criteria=["gate"], recovery=["none"], margin=0.05)
    found = [record("dense", "none", 1.0, s, 0.40 + s / 100) for s in range(3)]
    for keep, rise in ((0.5, -0.1), (0.1, 0.01), (0.02, 0.2)):
        found += [record("gate", "none", keep, s, 0.40 + s / 100 + rise) for s in range(3)]
    summary = summarise(spec, found)
    assert summary.regions["gate", "none"].certified == (0.5, 0.1)
    assert summary.suggested["gate", "none"].keep == 0.1
    assert row_of(summary, "gate", 0.1).difference.mean == pytest.approx(0.01)
    assert not any(row.at_chance for row in summary.rows)


# ---- which dense


def test_finetuned_rows_are_compared_with_finetuned_dense():
    spec = plan(recovery=["none", "finetune"])
    found = trials(spec)
    for each in found:
        if each["trial"]["recovery"] == "finetune":
            each["metrics"]["test"] += 1.0
    row = row_of(summarise(spec, found), "gate", 0.1, "finetune")
    assert row.dense_recovery == "finetune"
    assert row.difference.mean == pytest.approx(-0.2, abs=0.1)


@pytest.mark.parametrize(
    ("recovery", "reference"),
    [(("none", "batchnorm", "finetune"), "batchnorm"), (("none", "finetune"), "none")],
)
def test_without_finetuned_dense_the_nearest_dense_is_taken_and_named(recovery, reference):
    spec = plan(recovery=recovery)
    found = without(trials(spec), criterion="dense", recovery="finetune")
    summary = summarise(spec, found)
    row = row_of(summary, "gate", 0.1, "finetune")
    assert row.dense_recovery == reference
    assert row.difference is not None
    assert "seed-0_dense_keep-1_finetune" in summary.missing


def test_recalibrated_rows_are_never_compared_with_dense_that_is_not():
    spec = plan()
    summary = summarise(spec, without(trials(spec), criterion="dense", recovery="batchnorm"))
    row = row_of(summary, "gate", 0.5, "batchnorm")
    assert (row.difference, row.dense_recovery, row.bound) == (None, None, None)
    assert "0 seeds" in summary.regions["gate", "batchnorm"].refusal
    assert ("gate", "batchnorm") not in summary.suggested
    assert summary.regions["gate", "none"].certified == (0.5, 0.1)


# ---- what the rows say beside accuracy


def test_collapsed_layers_are_named():
    summary = summarise(plan(), trials(plan()))
    assert row_of(summary, "gate", 0.02).collapsed_layers == ("conv",)
    assert row_of(summary, "gate", 0.1).collapsed_layers == ()


def test_a_layer_that_only_its_floor_holds_has_collapsed():
    records = trials(plan())
    for kept, collapsed in ((2, ("conv",)), (3, ())):
        for each in records:
            each["weights"]["layers"]["conv"] = {"kept": kept, "total": 200}
        assert row_of(summarise(plan(), records), "gate", 0.5).collapsed_layers == collapsed
    # where 2 % are kept, two of 200 weights are half of the layer's share: no collapse
    for each in records:
        each["weights"]["layers"]["conv"] = {"kept": 2, "total": 200}
    assert row_of(summarise(plan(), records), "gate", 0.02).collapsed_layers == ()


def test_networks_that_guess_are_flagged():
    summary = summarise(plan(), trials(plan()))
    assert row_of(summary, "random", 0.02).at_chance  # 88 - 78 = 10 %
    assert not row_of(summary, "random", 0.1).at_chance
    assert not summary.dense[0].at_chance


def test_chance_is_one_class_plus_the_noise_of_the_test_set():
    task = {"classes": 10, "test_images": 10_000}
    assert chance_limit(plan(task=task)) == pytest.approx(10 + 3 * 0.3)
    fraction = {"name": "accuracy", "unit": "", "higher_is_better": True}
    assert chance_limit(plan(task=task, metric=fraction)) == pytest.approx(0.109)
    assert chance_limit(plan(task={"classes": 2})) == pytest.approx(50 + 300 * 0.5 / 1000**0.5)
    assert chance_limit(plan(task={"name": "regression"})) is None
    other = {"name": "loss", "unit": "nats", "higher_is_better": False}
    assert chance_limit(plan(metric=other)) is None


def test_estimated_bytes():
    assert estimated_bytes(parameters=1100, prunable=1000, kept=0) == 125 + 400
    assert estimated_bytes(parameters=1001, prunable=1001, kept=10) == 126 + 40
    assert estimated_bytes(parameters=1100, prunable=1000, kept=1000) == 4400  # dense is smaller


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9))
def test_estimated_bytes_grow_with_what_is_kept_and_never_pass_dense(fixed, kept, cut):
    parameters, prunable = fixed + kept + cut, kept + cut
    size = estimated_bytes(parameters, prunable, kept)
    assert 4 * (fixed + kept) <= size <= 4 * parameters
    if cut:
        assert size <= estimated_bytes(parameters, prunable, kept + 1)


def test_csv_reads_back_exactly():
    spec = plan()
    summary = summarise(spec, trials(spec))
    text = io.StringIO()
    csv.writer(text).writerows(csv_rows(summary.lines))
    lines = list(csv.DictReader(io.StringIO(text.getvalue())))
    assert [line["criterion"] for line in lines[:3]] == ["dense", "dense", "gate"]
    for line, row in zip(lines, (*summary.dense, *summary.rows), strict=True):
        assert float(line["keep"]) == row.keep
        assert float(line["test_mean"]) == row.test.mean
        assert float(line["validation_high"]) == row.validation.high
        assert line["difference_low"] == (
            "" if row.difference is None else repr(row.difference.low)
        )
        assert line["p_value"] == ("" if row.p_value is None else repr(row.p_value))
        assert line["bound"] == ("" if row.bound is None else repr(row.bound))
        assert line["certified"] == ("true" if row.certified else "false")
        assert int(line["estimated_bytes"]) == row.estimated_bytes
        assert line["collapsed_layers"] == " ".join(row.collapsed_layers)
        assert float(line["margin"]) == 0.5
        assert None not in line.values()


def test_a_summary_is_frozen_and_leaves_its_input_alone():
    spec, found = plan(), trials(plan())
    summary = summarise(spec, found)
    assert (spec, found) == (plan(), trials(plan()))
    with pytest.raises(FrozenInstanceError):
        summary.margin = 5.0
    with pytest.raises(FrozenInstanceError):
        summary.rows[0].certified = True


def test_the_region_is_that_of_the_statistics():
    spec = plan()
    summary = summarise(spec, trials(spec))
    differences = {
        keep: [
            -LOSS["random"][keep] + NOISE[(seed + len("random")) % 5] / 4 for seed in spec["seeds"]
        ]
        for keep in spec["levels"]
    }
    region = operating_region(differences, 0.5)
    found = summary.regions["random", "none"]
    assert (found.certified, found.stopped_at) == (region.certified, region.stopped_at)
    assert found.tests[0.1].bound == pytest.approx(region.tests[0.1].bound)
