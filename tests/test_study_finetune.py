"""Fine-tuning in a study: which cuts get it, what they follow, and what that is compared with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from secateur.errors import UsageError
from secateur.study.report.charts.curve import chart
from secateur.study.report.printed import printed
from secateur.study.spec import Options, Spec
from secateur.study.study import Study
from secateur.study.summary import Summary, summarise
from secateur.study.task import Task
from synthetic_study import make_spec, make_trials

PLAN: dict[str, Any] = {
    "keep": (1.0, 0.5, 0.1), "seeds": 1, "epochs": 3, "gate_epochs": 2, "calibration": 256,
    "criteria": ("magnitude",), "device": "cpu",
}  # fmt: skip


def study(task: Task, out: Path, **options: Any) -> Study:
    return Study(task, out=out, **{**PLAN, **options})


def record(directory: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "records" / f"seed-0_{name}.json").read_text())
    return found


def test_deep_cuts_are_finetuned_and_others_recalibrated(digits: Task, tmp_path: Path) -> None:
    told: list[str] = []
    job = study(digits, tmp_path)
    results = job.run(lambda event: told.extend([event.item.id] if event.epoch else []))
    rows = {(row.recovery, row.keep): row for row in results.summary.rows}
    assert {recovery for recovery, _ in rows} == {"none", "batchnorm", "finetune"}
    assert rows["finetune", 0.1].test.mean > rows["batchnorm", 0.1].test.mean
    finetuned = {path.stem for path in (tmp_path / "records").glob("*_finetune.json")}
    ids = ("dense_keep-1", "magnitude_keep-1", "magnitude_keep-0.1")
    assert finetuned == {f"seed-0_{name}_finetune" for name in ids}
    assert all(record(tmp_path, f"{name}_finetune")["epochs"] == 1 for name in ids)
    assert record(tmp_path, "magnitude_keep-0.5_batchnorm")["epochs"] == 0
    assert finetuned <= set(told)
    assert not results.summary.missing
    assert rows["finetune", 0.5] == replace(rows["batchnorm", 0.5], recovery="finetune")
    assert rows["finetune", 0.1].dense_recovery == "finetune"
    page = results.files.html.read_text()
    assert (
        "only cuts that keep 20\u00a0% or less, and what is not cut, are fine-tuned, and tested"
        in page
    )

    deep = job.network(0.1, criterion="magnitude")  # after the best recovery of the study
    logits = [(deep(x), y) for x, y in digits.data(torch.device("cpu")).evaluation("test")]
    right = sum(int((out.argmax(1) == y).sum()) for out, y in logits)
    total = sum(len(y) for _, y in logits)
    assert 100 * right / total == pytest.approx(rows["finetune", 0.1].test.mean)


def test_every_cut_is_finetuned_where_that_is_asked(digits: Task, tmp_path: Path) -> None:
    results = study(digits, tmp_path, finetune=2, finetune_from=1.0).run()
    assert record(tmp_path, "magnitude_keep-0.5_finetune")["epochs"] == 2
    assert "what is not cut, are fine-tuned" not in results.files.html.read_text()


@pytest.mark.parametrize("options", [{"finetune": 0}, {"keep": (1.0, 0.5)}])
def test_where_nothing_is_finetuned_there_is_no_such_recovery(
    digits: Task, options: dict[str, Any]
) -> None:
    spec = Spec.of(digits, Options(**{"keep": (0.5, 0.1), **options}))
    assert spec.recoveries == ("none", "batchnorm")


def test_a_finetuned_cut_follows_the_network_it_was_cut_from(digits: Task, tmp_path: Path) -> None:
    """Its outputs are nearer to the uncut network's, and the labels' share is what is left."""
    images = torch.cat([x for x, _ in digits.data(torch.device("cpu")).evaluation("validation")])
    apart = {}
    for follow in (0.0, 1.0):
        job = study(digits, tmp_path / str(follow), follow=follow, finetune=3, criteria=("gate",))
        job.run()
        with torch.no_grad():
            cut = job.network(0.1, recovery="finetune")(images)
            uncut = job.network(1.0, recovery="batchnorm")(images)
        wanted = uncut.log_softmax(1)
        apart[follow] = float(
            F.kl_div(cut.log_softmax(1), wanted, log_target=True, reduction="batchmean")
        )
    assert apart[1.0] < 0.8 * apart[0.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"finetune_from": 0}, r"finetune_from is 0, but must be in \(0, 1\]"),
        ({"follow": -0.1}, r"follow is -0.1, but must be in \[0, 1\]"),
        ({"finetune": -1}, "finetune is -1, but must be 0 or more epochs"),
        ({"finetune": 3, "keep": (0.5,)}, "finetune is 3, but no keep ratio is 0.2 or less.*raise"),
    ],
)
def test_what_cannot_be_finetuned_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Options(**options)


def test_a_task_without_a_loss_for_it_follows_nothing(digits: Task, tmp_path: Path) -> None:
    plain = replace(digits, imitation=None)
    study(plain, tmp_path / "plain").run()  # the default asks for what there is
    study(digits, tmp_path / "labels", follow=0.0).run()
    name = "magnitude_keep-0.1_finetune"
    alone, told = (record(tmp_path / which, name)["metrics"] for which in ("plain", "labels"))
    assert alone == told
    with pytest.raises(UsageError, match=r"follow is 0\.5.*no imitation loss.*set follow to 0"):
        study(plain, tmp_path / "asked", follow=0.5)


def mixed() -> tuple[dict[str, Any], Summary]:
    """A study where magnitude fails at 30 %, recalibrated, and nothing does that is fine-tuned."""
    spec = make_spec(recovery=("none", "batchnorm", "finetune"), levels=(0.5, 0.3, 0.2, 0.1))
    spec["options"]["finetune_from"] = 0.2
    trials = []
    for each in make_trials(spec):
        trial = each["trial"]
        if trial["recovery"] == "finetune":
            if 0.2 < trial["keep"] < 1:
                continue
            each["metrics"]["test"] = 88.0 + 0.01 * trial["seed"] + 0.1 * trial["keep"]
        if (trial["criterion"], trial["keep"]) == ("magnitude", 0.3):
            each["metrics"]["test"] = 80.0 + trial["seed"]
        trials.append(each)
    return spec, summarise(spec, trials)


def test_a_shallow_cut_that_fails_recalibrated_stops_no_finetuned_one() -> None:
    _, summary = mixed()
    assert not summary.missing
    assert not summary.unplanned
    assert summary.regions["magnitude", "batchnorm"].lowest_keep == 0.5
    assert summary.regions["magnitude", "finetune"].lowest_keep == 0.1
    assert set(summary.regions["magnitude", "finetune"].tests) == {0.2, 0.1}
    rows = {(row.criterion, row.recovery, row.keep): row for row in summary.rows}
    assert not rows["magnitude", "finetune", 0.3].certified
    assert rows["magnitude", "finetune", 0.2].certified
    for keep in (0.5, 0.3):
        twin = rows["magnitude", "batchnorm", keep]
        assert rows["magnitude", "finetune", keep] == replace(twin, recovery="finetune")
    found = {(c.other, c.recovery, c.keep): c.difference for c in summary.comparisons}
    assert found["magnitude", "finetune", 0.3] == found["magnitude", "batchnorm", 0.3]


def test_no_line_leads_from_recalibrated_cuts_to_finetuned_ones() -> None:
    spec, summary = mixed()
    rows = [r for r in summary.rows if (r.criterion, r.recovery) == ("gate", "finetune")]
    assert [row.dense_recovery for row in rows] == ["batchnorm"] * 2 + ["finetune"] * 2
    whole = replace(
        summary, rows=tuple(replace(row, dense_recovery="finetune") for row in summary.rows)
    )
    panels: dict[str, Any] = {each: {"recovery": each} for each in spec["recovery"]}
    broken, joined = (printed(chart(each, spec, []), panels)["svg"] for each in (summary, whole))
    # one line more for each of the three criteria, in the panel of fine-tuning
    assert broken.count(b"clip-path") > joined.count(b"clip-path")
