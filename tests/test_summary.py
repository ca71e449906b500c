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
from study_records import (
    LOSS,
    NOISE,
    plan,
    record,
    row_of,
    start_test,
    trials,
    uncut_test,
    without,
)
from synthetic_study import make_spec, make_trials


def test_rows_carry_the_figures_of_the_statistics():
    spec = plan()
    found = trials(spec)
    summary = summarise(spec, found)
    tests = {
        r["trial"]["seed"]: r["metrics"]["test"]
        for r in found
        if (r["trial"]["criterion"], r["trial"]["keep"]) == ("gate", 0.1)
    }
    uncut = {seed: uncut_test(seed, 0.1) for seed in spec["seeds"]}
    row = row_of(summary, "gate", 0.1)
    assert row.test == t_interval(tests)
    assert row.by_seed == tests
    assert row.validation.mean == pytest.approx(row.test.mean + 0.5)
    assert row.reference == t_interval(uncut)
    expected = paired_interval(tests, uncut)
    assert row.difference.mean == expected.mean
    assert row.difference.low == pytest.approx(expected.low)
    assert row.difference.high == pytest.approx(expected.high)
    assert row.difference.sd < row.test.sd / 3  # the seeds' own noise is paired away
    test = noninferior(paired(tests, uncut), 0.5)
    assert summary.regions["gate", "ladder"].tests[0.1] == test
    assert (row.bound, row.p_value, row.certified) == (test.bound, test.p_value, test.passed)
    assert (row.keep, row.sparsity, row.n, row.role) == (0.1, 0.9, 3, "primary")
    assert (row.kept, row.prunable, row.parameters) == (100, 1000, 1100)
    assert row.estimated_bytes == 125 + 4 * 100 + 4 * 100
    assert row.covers == row.difference.covers == "new seeds, on these test examples"


def test_the_start_and_the_best_uncut_network_stand_beside_the_reference():
    """What a level gained by training alone is not counted for it, and can be seen."""
    summary = summarise(plan(), trials(plan()))
    row = row_of(summary, "gate", 0.1)
    noise = row.difference.mean + LOSS["gate"][0.1]
    assert row.over_start == pytest.approx(0.2 - LOSS["gate"][0.1] + noise)
    assert row.over_best == pytest.approx(0.2 - 0.3 - LOSS["gate"][0.1] + noise)
    for whole in summary.whole:
        assert (whole.over_start, whole.over_best, whole.difference) == (None, None, None)
    # the best by validation data, and of all seeds
    found = trials(plan())
    for each in found:
        if each["trial"]["criterion"] == "start":
            each["metrics"]["validation"] = 99.0
    row = row_of(summarise(plan(), found), "gate", 0.1)
    assert row.over_best == row.over_start
    lost = without(found, criterion="start", seed=1)
    row = row_of(summarise(plan(), lost), "gate", 0.1)
    assert row.over_best == pytest.approx(0.2 - 0.3 - LOSS["gate"][0.1] + noise)


def test_rows_stand_in_the_order_of_the_spec_whatever_the_order_of_the_records():
    spec = plan()
    found = trials(spec)
    summary = summarise(spec, found)
    levels = (0.5, 0.1, 0.02)
    assert [(r.criterion, r.recovery, r.keep) for r in summary.lines] == [
        ("start", "batchnorm", 1.0),
        *(("uncut", "ladder", keep) for keep in levels),
        *(("gate", "ladder", keep) for keep in levels),
        *(("random", "batchnorm", keep) for keep in levels),
    ]
    assert summary.lines == (*summary.whole, *summary.rows)
    random.Random(0).shuffle(found)
    assert summarise(spec, found) == summary


def test_uncut_networks_have_a_row_each():
    summary = summarise(plan(), trials(plan()))
    assert summary.start == summary.whole[0]
    assert summary.start.test == t_interval([start_test(seed) for seed in range(3)])
    for row in summary.whole:
        assert (row.sparsity, row.n, row.role, row.verdict) == (0.0, 3, "", "")
        assert row.reference is None
        assert row.estimated_bytes == 4 * 1100
        assert row.collapsed_layers == ()
    for keep in (0.5, 0.1, 0.02):
        row = row_of(summary, "uncut", keep)
        assert row.test == t_interval([uncut_test(seed, keep) for seed in range(3)])


def test_the_start_is_the_recalibrated_one_where_there_is_one():
    spec = plan(unrepaired=True)
    found = trials(spec)
    assert summarise(spec, found).start.recovery == "batchnorm"
    alone = without(found, criterion="start", recovery="batchnorm")
    assert summarise(spec, alone).start.recovery == "none"


def test_region_certifies_and_stops():
    summary = summarise(plan(), trials(plan()))
    assert summary.primary == ("gate", "ladder")
    region = summary.regions["gate", "ladder"]
    assert (region.certified, region.lowest_keep, region.stopped_at) == ((0.5, 0.1), 0.1, 0.02)
    certified = {r.keep: r.certified for r in summary.rows if r.criterion == "gate"}
    assert certified == {0.5: True, 0.1: True, 0.02: False}
    random_row = row_of(summary, "random", 0.02)
    assert summary.regions["random", "batchnorm"].certified == (0.5,)
    assert (random_row.bound, random_row.p_value) == (None, None)  # the sequence stopped before it
    assert random_row.verdict == "not tested"
    assert not random_row.certified
    assert random_row.role == "exploratory"


def test_the_sequence_that_was_declared_is_the_primary_one():
    spec = plan(primary="random/batchnorm")
    summary = summarise(spec, trials(spec))
    assert summary.primary == ("random", "batchnorm")
    roles = {(row.criterion, row.role) for row in summary.rows}
    assert roles == {("random", "primary"), ("gate", "exploratory")}
    assert {c.criterion for c in summary.comparisons} == {"random"}


def test_comparisons_are_the_primary_curve_minus_each_other():
    spec = plan(criteria=("gate", "magnitude", "random"), smaller=0.1)
    found = {
        (c.other, c.other_recovery, c.keep): c for c in summarise(spec, trials(spec)).comparisons
    }
    assert set(found) == {
        *(("magnitude", recovery, keep) for recovery in ("ladder", "batchnorm")
          for keep in (0.5, 0.1, 0.02)),
        ("smaller", "ladder", 0.1),
    }  # fmt: skip
    for (other, _, keep), comparison in found.items():
        assert (comparison.criterion, comparison.recovery) == ("gate", "ladder")
        assert comparison.difference.n == 3
        if other != "magnitude" or comparison.other_recovery == "ladder":
            gain = LOSS[other][keep] - LOSS["gate"][keep]
            assert comparison.difference.mean == pytest.approx(gain, abs=0.1)


def test_a_smaller_network_is_compared_with_uncut_training_too():
    spec = plan(smaller=0.1)
    row = row_of(summarise(spec, trials(spec)), "smaller", 0.1)
    assert row.difference.mean == pytest.approx(-LOSS["smaller"][0.1], abs=0.1)
    assert row.reference == row_of(summarise(spec, trials(spec)), "uncut", 0.1).test
    assert (row.verdict, row.role, row.sparsity) == ("", "", 0.0)


def test_with_one_curve_there_is_nothing_to_compare():
    spec = plan(criteria=["random"])
    assert summarise(spec, trials(spec)).comparisons == ()


# ---- what is chosen


def test_the_suggestion_is_made_on_validation_data_and_reports_test_data():
    spec = plan(criteria=["gate"])
    found = [record("start", "batchnorm", 1.0, s, test=70.0, validation=80.0) for s in range(3)]
    for seed in range(3):
        for keep in (0.5, 0.1, 0.02):
            found.append(record("uncut", "ladder", keep, seed, test=88.0, validation=90.0))
        found.append(record("gate", "ladder", 0.5, seed, test=88.0, validation=90.0))
        found.append(record("gate", "ladder", 0.1, seed, test=70.0, validation=89.6))
        found.append(record("gate", "ladder", 0.02, seed, test=88.0, validation=89.5))
    summary = summarise(spec, found)
    suggestion = summary.suggested["gate", "ladder"]
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
    spec = plan(metric=metric, criteria=["gate"], margin=0.05)
    found = [record("start", "batchnorm", 1.0, s, 0.9) for s in range(3)]
    for keep, rise in ((0.5, -0.1), (0.1, 0.01), (0.02, 0.2)):
        found += [record("uncut", "ladder", keep, s, 0.40 + s / 100) for s in range(3)]
        found += [record("gate", "ladder", keep, s, 0.40 + s / 100 + rise) for s in range(3)]
    summary = summarise(spec, found)
    assert summary.regions["gate", "ladder"].certified == (0.5, 0.1)
    assert summary.suggested["gate", "ladder"].keep == 0.1
    row = row_of(summary, "gate", 0.1)
    assert row.difference.mean == pytest.approx(0.01)
    assert row.over_best == pytest.approx(0.01)
    assert not any(row.at_chance for row in summary.rows)


# ---- which uncut network


def test_a_level_without_its_own_reference_is_compared_with_no_other():
    """Less training, or another repair, is no reference."""
    spec = plan(unrepaired=True)
    found = without(trials(spec), criterion="uncut", keep=0.1)
    summary = summarise(spec, without(found, criterion="start", recovery="batchnorm"))
    for criterion, recovery, keep in (("gate", "ladder", 0.1), ("random", "batchnorm", 0.5)):
        row = row_of(summary, criterion, keep, recovery)
        assert (row.difference, row.reference, row.bound) == (None, None, None)
    assert summary.regions["gate", "ladder"].certified == (0.5,)
    assert "0 seeds" in summary.regions["gate", "ladder"].refusal
    assert ("random", "batchnorm") not in summary.suggested
    assert summary.regions["random", "none"].certified == (0.5,)


def test_levels_above_the_ladder_and_cuts_at_once_are_compared_with_the_start():
    spec = plan(ladder_from=0.1)
    summary = summarise(spec, trials(spec))
    start = t_interval([start_test(seed) for seed in range(3)])
    assert row_of(summary, "gate", 0.5).reference == start
    assert row_of(summary, "gate", 0.1).reference == row_of(summary, "uncut", 0.1).test
    assert all(r.reference == start for r in summary.rows if r.criterion == "random")


@pytest.mark.parametrize("gates", ["trunk", "frozen"])
def test_without_a_ladder_all_are_compared_with_the_uncut_one(gates):
    spec = plan(gates=gates, unrepaired=True)
    planned = [each["trial"] for each in make_trials(spec, scores=False)]
    found = [
        record(t["criterion"], t["recovery"], t["keep"], t["seed"], 80.0 + len(t["recovery"]))
        for t in planned
    ]
    summary = summarise(spec, found)
    for row in summary.rows:
        assert row.reference.mean == 80.0 + len(row.recovery)
        assert row.difference.mean == 0.0
    assert summary.primary == ("gate", "batchnorm")


# ---- what is kept of every example


def test_with_scores_of_all_examples_the_certificate_covers_new_examples_too():
    spec = make_spec(criteria=("gate",), levels=(0.5, 0.1))
    row = row_of(summarise(spec, make_trials(spec)), "gate", 0.5)
    alone = row_of(summarise(spec, make_trials(spec, scores=False)), "gate", 0.5)
    assert row.covers == "new seeds and new test examples"
    assert alone.covers == "new seeds, on these test examples"
    assert row.difference.mean == alone.difference.mean
    assert row.difference.low != alone.difference.low


def test_the_class_that_lost_most_is_shown_and_the_calibration_error():
    spec = plan(criteria=["gate"], levels=[0.5])
    found = trials(spec)
    drops = {0: [1.0, 3.0, None], 1: [0.0, 4.0, 9.0], 2: [2.0, 2.0, 9.0]}
    for each in found:
        cut, seed = each["trial"]["criterion"] == "gate", each["trial"]["seed"]
        lost = drops[seed] if cut else [0.0, 0.0, 0.0]
        each["classes"] = [None if x is None else 90.0 - x for x in lost]
        each["calibration_error"] = 2.0 + seed
    row = row_of(summarise(spec, found), "gate", 0.5)
    assert row.class_drop == pytest.approx(3.0)  # of class 1; one seed has no example of class 2
    assert row.calibration_error == pytest.approx(3.0)
    lower = {"name": "error", "unit": "", "higher_is_better": False}
    row = row_of(summarise({**spec, "metric": lower}, found), "gate", 0.5)
    assert row.class_drop == pytest.approx(-1.0)  # which then is a gain; the least of them
    del found[-1]["calibration_error"]
    assert row_of(summarise(spec, found), "gate", 0.5).calibration_error is None


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
    assert not summary.start.at_chance


def test_chance_is_one_class_plus_the_noise_of_the_test_set():
    task = {"classes": 10, "test_images": 10_000}
    assert chance_limit({**plan(), "task": task}) == pytest.approx(10 + 3 * 0.3)
    fraction = {"name": "accuracy", "unit": "", "higher_is_better": True}
    assert chance_limit({**plan(), "task": task, "metric": fraction}) == pytest.approx(0.109)
    assert chance_limit({**plan(), "task": {"classes": 2}}) == pytest.approx(
        50 + 300 * 0.5 / 1000**0.5
    )
    assert chance_limit({**plan(), "task": {"name": "regression"}}) is None
    other = {"name": "loss", "unit": "nats", "higher_is_better": False}
    assert chance_limit({**plan(), "metric": other}) is None


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
    spec = plan(criteria=("gate", "random"), first_seed=4)
    summary = summarise(spec, without(trials(spec), criterion="gate", keep=0.1, seed=5))
    text = io.StringIO()
    csv.writer(text).writerows(csv_rows(summary.lines))
    lines = list(csv.DictReader(io.StringIO(text.getvalue())))
    assert [line["criterion"] for line in lines[:5]] == ["start", *["uncut"] * 3, "gate"]
    for line, row in zip(lines, summary.lines, strict=True):
        assert float(line["keep"]) == row.keep
        assert float(line["test_mean"]) == row.test.mean
        assert float(line["validation_high"]) == row.validation.high
        for name in ("reference", "difference"):
            part = getattr(row, name)
            assert line[f"{name}_low"] == ("" if part is None else repr(part.low))
        for name in ("p_value", "bound", "over_start", "over_best", "class_drop"):
            value = getattr(row, name)
            assert line[name] == ("" if value is None else repr(value))
        assert line["calibration_error"] == ""
        assert (line["role"], line["covers"]) == (row.role, row.covers)
        assert line["certified"] == ("true" if row.certified else "false")
        assert int(line["estimated_bytes"]) == row.estimated_bytes
        assert line["collapsed_layers"] == " ".join(row.collapsed_layers)
        assert float(line["margin"]) == 0.5
        # a column for each seed, empty where that has no figure
        for seed in (4, 5, 6):
            value = row.by_seed.get(seed)
            assert line[f"test_seed_{seed}"] == ("" if value is None else repr(value))
        assert None not in line.values()
    assert [name for name in lines[0] if name.startswith("test_seed")] == [
        "test_seed_4", "test_seed_5", "test_seed_6",
    ]  # fmt: skip


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
    found = summary.regions["random", "batchnorm"]
    assert (found.certified, found.stopped_at) == (region.certified, region.stopped_at)
    assert found.tests[0.1].bound == pytest.approx(region.tests[0.1].bound)
