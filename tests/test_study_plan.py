"""The plan of a study: what options it takes, its address, and the order of its items."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from secateur import Study, Task
from secateur.errors import UsageError
from secateur.study.plan import Stage, Trial, plan
from secateur.study.spec import Options, Spec


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": (0.5, 0.0)}, r"\(0, 1\]"),
        ({"keep": (1.5,)}, r"\(0, 1\]"),
        ({"keep": (0.1, 0.5)}, "must fall"),
        ({"keep": (0.5, 0.5)}, "must fall"),
        ({"keep": ()}, "no keep ratio"),
        ({"seeds": 0}, "seeds is 0"),
        ({"seeds": -1}, "seeds is -1"),
        ({"criteria": ("gates",)}, "no criterion 'gates'; choose one of .*magnitude"),
        ({"criteria": ()}, "no criterion"),
        ({"criteria": ("gate", "gate")}, "twice"),
        ({"confidence": 1.0}, "confidence is"),
        ({"margin": 0.0}, "margin is"),
        ({"epochs": 0}, "epochs is 0"),
        ({"colour": 1}, "no argument 'colour'; the valid ones are .*keep"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(
    digits: Task, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Study(digits, out=tmp_path / "study", device="cpu", **options)
    assert not (tmp_path / "study").exists()


def test_every_field_changes_the_address(digits: Task) -> None:
    base = Spec.of(digits, Options())
    changed: dict[str, Any] = {
        "keep": (0.5,), "seeds": 4, "criteria": ("gate",), "epochs": 9, "gate_epochs": 9,
        "finetune": 2, "finetune_from": 0.5, "follow": 0.5,
        "batch_size": 64, "rate": 0.3, "gate_rate": 0.3, "weight_decay": 0.1,
        "lowest_keep": 0.5, "dense_steps": 0.5, "calibration": 10, "scope": "layer",
        "floor": 0.01, "first_layer": True, "margin": 1.0, "confidence": 0.9,
        "precision": "fp32", "reconstruct": 64, "teach": 0.5, "criterion_images": 64,
        "gate_multiple": 2.0, "pattern": "1x4",
    }  # fmt: skip
    assert set(changed) == set(Options.__dataclass_fields__)
    hashes = {Spec.of(digits, replace(Options(), **{k: v})).hash for k, v in changed.items()}
    hashes.add(Spec.of(replace(digits, name="other"), Options()).hash)
    assert len(hashes) == len(changed) + 1
    assert base.hash not in hashes
    assert base.hash == Spec.of(digits, Options()).hash


def test_a_description_that_is_not_json_is_refused(digits: Task) -> None:
    with pytest.raises(UsageError, match="not JSON"):
        Spec.of(replace(digits, description={"when": object()}), Options())


def test_the_plan_puts_everything_after_what_it_needs(digits: Task) -> None:
    seen: set[Stage | Trial] = set()
    for item in plan(Spec.of(digits, Options())):
        assert item.after is None or item.after in seen
        assert item not in seen
        seen.add(item)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"reconstruct": 5}, "reconstruct is 5, but must be 0, or at least 32 images"),
        ({"teach": 1.5}, r"teach is 1.5, but must be in \[0, 1\]"),
        ({"gate_multiple": 0}, "gate_multiple is 0, but must be positive"),
        ({"criterion_images": 8}, "criterion_images is 8, but must be at least 32"),
    ],
)
def test_what_criteria_and_recovery_cannot_use_is_refused(
    wrong: dict[str, float], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Options(**wrong)  # type: ignore[arg-type]
