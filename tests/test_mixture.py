"""Records that were made by unlike versions, or on unlike machines: said, and not paired."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from secateur.study.report.findings import warnings
from secateur.study.summary import Summary, summarise
from study_records import plan, trials

HERE = {"versions": {"torch": "2.13.0", "numpy": "2.4.6"}, "hardware": {"cpu": "X", "gpu": None}}


def study(**changes: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return spec and records; those of a seed are changed by what is given under its number."""
    spec = plan()
    found = [{**record, **deepcopy(HERE)} for record in trials(spec)]
    for seed, change in changes.items():
        for record in found:
            trial = record["trial"]
            if f"_{trial['seed']}" == seed and trial["criterion"] == "gate":
                record.update(change)
    return spec, found


def summary(**changes: dict[str, Any]) -> tuple[dict[str, Any], Summary]:
    spec, found = study(**changes)
    return spec, summarise(spec, found)


def test_a_study_of_one_version_on_one_kind_of_machine_says_nothing() -> None:
    spec, found = summary()
    assert not found.mixed
    other = {"hardware": {"cpu": "X", "gpu": None, "cores": 64, "memory_gib": 3.0}}
    assert summary(_1=other)[1].mixed == ()  # no other kind: its arithmetic is the same
    assert not [n for n in warnings(found, spec, {}) if "unlike" in n.title]


def test_seeds_on_different_kinds_are_no_mixture() -> None:
    spec, found = study()
    for record in found:
        if record["trial"]["seed"] == 1:
            record["hardware"] = {"cpu": "Y"}
    assert summarise(spec, found).mixed == ()
    assert summarise(spec, found).rows == summary()[1].rows


def test_different_versions_are_said() -> None:
    spec, found = summary(_1={"versions": {"torch": "2.14.0", "numpy": "2.4.6"}})
    (said,) = found.mixed
    assert "different versions of torch: 2.13.0 in " in said
    assert "2.14.0 in 3 (such as 1 gate " in said
    (notice,) = [n for n in warnings(found, spec, {}) if "unlike" in n.title]
    assert notice.severity == "warning"
    assert notice.items == found.mixed


def test_versions_of_stages_count_too() -> None:
    spec, found = study()
    stage = {"stage": "start", "seed": 0, "versions": {"torch": "2.14.0"}}
    assert "2.14.0 in 1 (such as start 0)" in summarise(spec, found, stages=[stage]).mixed[0]


def test_a_seed_that_went_on_on_the_gpu_of_the_same_machine_is_said() -> None:
    spec, found = study()
    for record in found:
        device = "cuda" if record["trial"]["criterion"] == "gate" else "cpu"
        record["hardware"] = {"cpu": "X", "gpu": "Y", "device": device}
    said = summarise(spec, found).mixed
    assert len(said) == 3
    assert "on machines of different kinds (X; X, Y)" in said[0]


def test_a_seed_is_not_paired_across_kinds_of_machines() -> None:
    _, found = summary(_1={"hardware": {"cpu": "Y"}})
    (said,) = found.mixed
    assert said.startswith("seed 1 was computed on machines of different kinds (X; Y)")
    for row in found.of("gate", "ladder"):
        assert row.n == 3
        assert row.difference is not None
        assert row.difference.n == 2
        assert not row.certified
    assert any(row.certified for row in summary()[1].of("gate", "ladder"))
