"""What a study may be told, and its address: the spec that follows from that."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from secateur import Study, Task
from secateur.errors import UsageError
from secateur.study.options import Options
from secateur.study.plan import items
from secateur.study.spec import Spec, options_of
from study_options import options
from synthetic_study import make_spec


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep": (0.5, 0.0)}, r"\(0, 1\]"),
        ({"keep": (1.5,)}, r"\(0, 1\]"),
        ({"keep": (0.1, 0.5)}, "must fall"),
        ({"keep": (0.5, 0.5)}, "must fall"),
        ({"keep": ()}, "no keep ratio"),
        ({"keep": {0.5}}, "has no order"),
        ({"seeds": 0}, "seeds is 0"),
        ({"seeds": -1}, "seeds is -1"),
        ({"first_seed": -1}, "first_seed is -1, but must be a whole number from 0"),
        ({"first_seed": 0.5}, "first_seed is 0.5"),
        ({"criteria": ("gates",)}, "no criterion 'gates'; choose one of .*magnitude"),
        ({"criteria": ()}, "no criterion"),
        ({"criteria": ("gate", "gate")}, "twice"),
        ({"confidence": 1.0}, "confidence is"),
        ({"margin": 0.0}, "margin is"),
        ({"epochs": 0}, "epochs is 0"),
        ({"gate_epochs": 0}, "gate_epochs is 0, but must be above 0"),
        ({"gate_epochs": float("nan")}, "gate_epochs is nan"),
        ({"colour": 1}, "no argument 'colour'; the valid ones are .*keep"),
        ({"finetune": 1}, "the ladder trains what is cut"),
        ({"reconstruct": 5}, "reconstruct is 5, but must be 0, or at least 32 images"),
        ({"teach": 1.5}, r"teach is 1.5, but must be in \[0, 1\]"),
        ({"gate_multiple": 0}, "gate_multiple is 0, but must be positive"),
        ({"criterion_images": 8}, "criterion_images is 8, but must be at least 32"),
        ({"gates": "tree"}, "gates is 'tree'"),
        ({"learn": 0}, r"learn is 0, but must be in \(0, 1\]"),
        ({"ladder_from": 0}, r"ladder_from is 0, but must be in \(0, 1\]"),
        ({"ladder_from": "half"}, "ladder_from is 'half'"),
        # what must name something of the study
        ({"primary": "lamp/ladder"}, "primary is 'lamp/ladder', but must be one of gate/ladder, m"),
        ({"primary": "gate/batchnorm"}, "primary is 'gate/batchnorm'"),
        ({"primary": "magnitude/reconstruct"}, "primary is 'magnitude/reconstruct'"),
        ({"primary": "magnitude/none"}, "primary is 'magnitude/none'"),
        ({"primary": "magnitude/finetune"}, "primary is 'magnitude/finetune'"),
        ({"primary": "gate"}, "primary is 'gate'"),
        ({"primary": "random/ladder"}, "primary is 'random/ladder'"),
        ({"primary": 3}, "primary is 3"),
        ({"smaller": 0.25}, r"smaller is 0\.25, but must be 0, or one of .* ladder \(0\.6, 0\.5, "),
        ({"smaller": 0.8}, r"smaller is 0\.8, but must be 0, or one of .* ladder \(0\.6, 0\.5, "),
        ({"smaller": 0.5, "gates": "trunk"}, "one of .* ladder .it has none."),
        ({"smaller": 0.5, "criteria": ("random",)}, "one of .* ladder .it has none."),
        ({"smaller": "0.5"}, "smaller is '0.5'"),
        # ladders without a rung
        ({"keep": (0.8,)}, "gates would learn nothing: no keep ratio is 0.6 or less"),
        ({"keep": (1.0,)}, "gates would learn nothing"),
        ({"keep": (0.5,), "ladder_from": 0.4}, "no keep ratio is 0.4 or less"),
        (
            {"dense_steps": 0.5},
            "dense_steps is 0.5, but says nothing of gates='ladder', only of trunk",
        ),
        ({"lowest_keep": 0.1}, "only of trunk and frozen; leave it out"),
        ({"gates": "trunk", "ladder_from": 0.4}, "ladder_from is 0.4, .* only of ladder; leave it"),
        ({"gates": "frozen", "learn": 0.5}, "learn is 0.5, but says nothing of gates='frozen'"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(
    digits: Task, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Study(digits, out=tmp_path / "study", device="cpu", **changes)
    assert not (tmp_path / "study").exists()


def test_without_gates_cuts_above_the_ladder_are_a_study() -> None:
    chosen = Options(keep=(0.8,), criteria=("magnitude",))
    assert chosen.claim == ("magnitude", "batchnorm")


def test_what_is_asked_of_a_task_that_has_none_of_it_is_refused(digits: Task) -> None:
    bare = replace(digits, imitation=None, smaller=None)
    spec = Spec.of(bare, Options())
    assert (spec.options.teach, spec.options.smaller) == (0.0, 0.0)
    with pytest.raises(UsageError, match=r"teach is 0\.5, but task .* has no imitation loss"):
        Spec.of(bare, Options(teach=0.5))
    with pytest.raises(UsageError, match=r"smaller is 0\.2, but task .* has no smaller networks"):
        Spec.of(bare, Options(smaller=0.2))
    assert Spec.of(digits, Options()).options.smaller == 0.2
    assert Spec.of(digits, Options(keep=(0.5, 0.1))).options.smaller == 0.0


def test_every_field_changes_the_address(digits: Task) -> None:
    base = Spec.of(digits, Options())
    changed: dict[str, Any] = {
        "keep": (0.5,), "seeds": 4, "first_seed": 1, "criteria": ("gate",), "gates": "trunk",
        "primary": "magnitude/ladder", "epochs": 9, "gate_epochs": 9, "ladder_from": 0.5,
        "reconstruct": 64, "unrepaired": True, "smaller": 0.1, "batch_size": 64, "rate": 0.3,
        "gate_rate": 0.3, "gate_multiple": 2.0, "learn": 0.3, "weight_decay": 0.1, "teach": 0.5,
        "lowest_keep": 0.5, "dense_steps": 0.5, "calibration": 10, "criterion_images": 64,
        "scope": "layer", "floor": 0.01, "pattern": "1x4", "first_layer": True, "int8": True,
        "margin": 1.0, "confidence": 0.9, "precision": "fp32",
    }  # fmt: skip
    assert set(changed) == set(Options.__dataclass_fields__)
    trunk = Options(gates="trunk")  # to which some belong
    bases = {
        name: trunk if name in ("lowest_keep", "dense_steps") else Options() for name in changed
    }
    hashes = {Spec.of(digits, replace(bases[k], **{k: v})).hash for k, v in changed.items()}
    hashes.add(Spec.of(replace(digits, name="other"), Options()).hash)
    assert len(hashes) == len(changed) + 1
    assert base.hash not in hashes
    assert base.hash == Spec.of(digits, Options()).hash


def test_what_is_left_out_and_what_it_stands_for_have_one_address(digits: Task) -> None:
    told = Options(primary="gate/ladder", smaller=0.2, margin=0.5)
    assert Spec.of(digits, told).hash == Spec.of(digits, Options()).hash


def test_whole_numbers_and_their_floats_are_one_study(digits: Task) -> None:
    whole: dict[str, Any] = {"keep": (1, 0.5), "gate_epochs": 2, "margin": 1, "smaller": 0}
    whole |= {"ladder_from": 1, "teach": 0, "learn": 1, "gate_multiple": 3}
    floats = {name: float(value) for name, value in whole.items() if name != "keep"}
    one, other = Options(**whole), Options(keep=(1.0, 0.5), **floats)
    assert one == other
    assert Spec.of(digits, one).canonical() == Spec.of(digits, other).canonical()


@given(options())
def test_a_spec_gives_its_options_back(chosen: Options) -> None:
    spec = make_spec(
        levels=chosen.keep,
        **{name: getattr(chosen, name) for name in Options.__dataclass_fields__
           if name not in ("keep", "margin")},
    )  # fmt: skip
    read = options_of(json.loads(json.dumps(spec)))
    filled = {"primary": "/".join(chosen.claim), "margin": 0.5}
    assert read == replace(chosen, **filled)
    assert spec["primary"]["levels"] == list(chosen.cuts(*chosen.claim))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recovery": ["batchnorm"]}, "recovery of the spec does not follow from its options"),
        ({"primary": {"criterion": "gate", "recovery": "ladder", "levels": [0.9]}},
         "primary of the spec does not follow"),
        ({"primary": {"criterion": "lamp", "recovery": "ladder", "levels": [0.9]}},
         "primary is 'lamp/ladder', but"),
        ({"seeds": [0, 2]}, "seeds of the spec do not follow one another"),
        ({"seeds": [0, 0]}, "seeds of the spec do not follow one another"),
        ({"criteria": ["gate", "mine"]}, "no criterion 'mine'"),
    ],
)  # fmt: skip
def test_a_spec_that_contradicts_itself_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        options_of({**make_spec(), **change})


def test_a_description_that_is_not_json_is_refused(digits: Task) -> None:
    with pytest.raises(UsageError, match="not JSON"):
        Spec.of(replace(digits, description={"when": object()}), Options())


def test_no_study_has_more_items_than_are_counted_before_it_begins() -> None:
    shape: dict[str, Any] = {"keep": (0.6, 0.5, 0.4), "criteria": ("gate", "magnitude")}
    fits, too_many = 1, 10_000
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        try:
            Options(seeds=middle, **shape)
            fits = middle
        except UsageError:
            too_many = middle
    assert len(list(items(Options(**shape), (0,)))) * fits <= 100_000
