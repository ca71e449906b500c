"""Whose a record is, and whether a study's files can be believed at all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

import forked
from secateur.errors import StudyError
from secateur.study.opening import opened
from secateur.study.plan import Stage, Trial
from secateur.study.reading import CorruptFile, spec_hash
from secateur.study.results import rebuild
from secateur.study.study import Study
from secateur.study.task import Task
from secateur.terminal.inspection import inspection

pytestmark = pytest.mark.usefixtures("undrawn")

PLAN: dict[str, Any] = {
    "keep": (0.5,), "seeds": 2, "epochs": 1, "gate_epochs": 1, "calibration": 128,
    "criteria": ("magnitude",), "device": "cpu",
}  # fmt: skip
OLD = Path(__file__).parent / "data" / "study-0.1.0"
TRIAL = "seed-0_magnitude_keep-0.5_batchnorm"
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture(scope="module")
def finished(undrawn: None, digits: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study")
    Study(digits, out=out, **PLAN).run()
    return out


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def record(out: Path, item: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "records" / f"{item}.json").read_text())
    return found


def write(out: Path, item: str, content: dict[str, Any]) -> None:
    """Write a record whose own hash is right, as somebody who means harm would."""
    content = {key: value for key, value in content.items() if key != "sha256"}
    path = out / "records" / f"{item}.json"
    path.write_text(json.dumps({**content, "sha256": spec_hash(content)}))


def figures(out: Path) -> dict[str, Any]:
    kept = ("trial", "stage", "seed", "metrics", "masks", "checkpoint")
    found = {path.stem: record(out, path.stem) for path in (out / "records").glob("*.json")}
    return {item: {k: each[k] for k in kept if k in each} for item, each in found.items()}


def swap(a: Path, b: Path) -> None:
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (TRIAL, "seed-1_magnitude_keep-0.5_batchnorm"),  # of another seed
        (TRIAL, "seed-0_magnitude_keep-0.5_ladder"),  # recovery
        ("seed-0_start_keep-1_batchnorm", TRIAL),  # criterion and ratio
        ("seed-0_start", "seed-1_start"),
        ("seed-0_uncut_rung-0.5", "seed-0_start"),
        ("seed-0_uncut_rung-0.5", "seed-0_magnitude_rung-0.5"),  # of another arm
        ("seed-0_start", TRIAL),  # kind
        (TRIAL, "seed-0_start"),
    ],
)
def test_the_record_of_another_item_is_not_believed(
    finished: Path, copy: Path, digits: Task, source: str, target: str
) -> None:
    shutil.copy(copy / "records" / f"{source}.json", copy / "records" / f"{target}.json")
    with pytest.warns(CorruptFile, match=rf"{target}\.json is left out: it is the record of"):
        missing = rebuild(copy).summary.missing
    assert missing == ((target,) if "keep" in target else ())
    with pytest.warns(CorruptFile, match=rf"{target}\.json is corrupt \(it is the record of"):
        Study(digits, out=copy, **PLAN).run()
    assert figures(copy) == figures(finished)


def test_the_record_of_another_study_is_not_believed(
    copy: Path, digits: Task, tmp_path: Path
) -> None:
    plan = {**PLAN, "calibration": 129}
    Study(digits, out=tmp_path / "other", **plan).run()
    shutil.copy(tmp_path / "other" / "records" / f"{TRIAL}.json", copy / "records")
    with pytest.warns(CorruptFile, match="belongs to another spec"):
        Study(digits, out=copy, **PLAN).run()
    shutil.copy(tmp_path / "other" / "spec.json", copy)
    with pytest.raises(StudyError, match=r"options\.calibration: 129 there, 128 here"):
        Study(digits, out=copy, **PLAN).run()
    with pytest.warns(CorruptFile), pytest.raises(StudyError, match="no usable record"):
        rebuild(copy)


@pytest.mark.parametrize("both", [False, True])
def test_checkpoints_of_two_seeds_that_are_swapped(
    finished: Path, copy: Path, digits: Task, both: bool
) -> None:
    for kind, ending in (("checkpoints", "safetensors"), ("records", "json"))[: 1 + both]:
        swap(*(copy / kind / f"seed-{seed}_start.{ending}" for seed in (0, 1)))
    for path in (copy / "records").glob("*magnitude*"):
        path.unlink()
    with pytest.warns(CorruptFile, match=r"seed-\d_start\.\w+ is corrupt"):
        Study(digits, out=copy, **PLAN).run()
    assert figures(copy) == figures(finished)


def test_a_checkpoint_of_the_right_hash_that_holds_no_tensors(
    finished: Path, copy: Path, digits: Task
) -> None:
    (copy / "checkpoints" / "seed-0_start.safetensors").write_bytes(b"no tensors")
    content = record(copy, "seed-0_start")
    write(copy, "seed-0_start", {**content, "checkpoint": sha256(b"no tensors").hexdigest()})
    (copy / "records" / f"{TRIAL}.json").unlink()
    with pytest.warns(CorruptFile, match=r"seed-0_start\.safetensors is corrupt"):
        Study(digits, out=copy, **PLAN).run()
    assert figures(copy) == figures(finished)


def test_two_ratios_that_print_alike_are_two_trials(digits: Task, tmp_path: Path) -> None:
    ratios = (0.1000001, 0.1, 0.09999999)
    results = Study(digits, out=tmp_path, **{**PLAN, "keep": ratios, "seeds": 1}).run()
    assert {row.keep for row in results.summary.rows} == set(ratios)
    for keep in ratios:
        item = Trial(0, "magnitude", keep, "ladder").id
        stage = record(tmp_path, Stage(0, "magnitude", keep).id)
        assert stage["keep"] == keep
        assert record(tmp_path, item)["trial"]["keep"] == keep
    names = [Trial(0, "gate", keep, "none").id for keep in (1, 1.0, 0.5, 0.05, 1e-5, 1 / 3)]
    assert [name.split("_")[2] for name in names] == [
        "keep-1", "keep-1", "keep-0.5", "keep-0.05", "keep-1e-05", "keep-0.3333333333333333",
    ]  # fmt: skip


def changed(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        *outer, last = path.split("/")
        for name in outer:
            content = content[name]
        if value is None:
            del content[last]
        else:
            content[last] = value

    return change


@pytest.mark.parametrize(
    ("item", "change"),
    [
        (TRIAL, changed("metrics/test", "ninety")),
        (TRIAL, changed("metrics/test", [90.0])),
        (TRIAL, changed("metrics/test", 1e200)),
        (TRIAL, changed("metrics/validation", True)),
        (TRIAL, changed("metrics/test", None)),
        (TRIAL, changed("metrics", [1, 2])),
        (TRIAL, changed("weights", None)),
        (TRIAL, changed("weights/kept", -1)),
        (TRIAL, changed("weights/kept", 10**30)),
        (TRIAL, changed("weights/layers", ["a"])),
        (TRIAL, changed("weights/layers", {"a": {"kept": 1}})),
        (TRIAL, changed("trial/seed", "0")),
        (TRIAL, changed("trial/seed", 0.0)),
        (TRIAL, changed("trial/keep", 10**300)),
        (TRIAL, changed("trial", "x")),
        (TRIAL, changed("seconds", "long")),
        (TRIAL, changed("versions", "all")),
        (TRIAL, changed("started", 5)),
        (TRIAL, changed("scores", "all")),
        (TRIAL, changed("scores/count", 10**30)),
        (TRIAL, changed("scores/values", 3)),
        (TRIAL, changed("classes", [1e200])),
        (TRIAL, changed("calibration_error", -1)),
        ("seed-0_start", changed("width", 2)),
        ("seed-0_start", changed("keep", 0)),
        ("seed-0_start", changed("log", {})),
        ("seed-0_start", changed("log", [1])),
        ("seed-0_start", changed("checkpoint", None)),
        ("seed-0_start", changed("stage", 3)),
        ("seed-0_start", changed("excluded", [1])),
        ("seed-0_start", changed("gates", {"a": [1]})),
    ],
)
def test_a_record_of_wrong_kinds_is_left_out_and_made_again(
    finished: Path, copy: Path, digits: Task, item: str, change: Callable[[Any], None]
) -> None:
    content = record(copy, item)
    change(content)
    write(copy, item, content)
    with pytest.warns(CorruptFile, match=rf"{item}\.json is left out"):
        rebuild(copy)
    with pytest.warns(CorruptFile, match="is left out"):
        inspection(copy)
    with pytest.warns(CorruptFile, match=rf"{item}\.json is corrupt"):
        Study(digits, out=copy, **PLAN).run()
    assert figures(copy) == figures(finished)


@pytest.mark.parametrize(
    "text",
    [DEEP, '{"sha256": ' + "9" * 5000 + "}", '{"a": NaN, "sha256": ""}', '{"a": 1, "a": 1}', "3",
     "[]", b"\xff\xfe", '{"sha256": ["a"]}', ""],
    ids=range(9),
)  # fmt: skip
def test_a_record_that_is_no_json_of_ours(
    finished: Path, copy: Path, digits: Task, text: str | bytes
) -> None:
    path = copy / "records" / f"{TRIAL}.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.warns(CorruptFile, match="is left out"):
        rebuild(copy)
    with pytest.warns(CorruptFile, match="is corrupt"):
        Study(digits, out=copy, **PLAN).run()
    assert figures(copy) == figures(finished)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("task", []), ("task/name", 3), ("metric", "accuracy"), ("metric/unit", None),
        ("metric/higher_is_better", 1), ("levels", 0.5), ("levels", []), ("levels", ["0.5"]),
        ("levels", [2.0]), ("seeds", 3), ("seeds", [0.5]), ("seeds", list(range(20_000))),
        ("criteria", "gate"), ("criteria", [["gate"]]), ("recovery", [None]), ("margin", "0.5"),
        ("margin", 0), ("confidence", 1.0), ("options", []), ("options/floor", "low"),
        ("options/ladder_from", {}), ("options/gates", "tree"), ("options/learn", 2),
        ("options/smaller", 0.3), ("options/primary", 1), ("primary", "gate"), ("seeds", None),
        ("primary/criterion", "lamp"), ("primary/levels", [0.1]), ("recovery", ["none"]),
        ("options/finetune", 1), ("options/floor", None),
    ],
)  # fmt: skip
def test_a_spec_of_wrong_kinds_is_one_error(
    copy: Path, digits: Task, where: str, value: object
) -> None:
    spec = json.loads((copy / "spec.json").read_text())
    changed(where, value)(spec)
    (copy / "spec.json").write_text(json.dumps(spec))
    refused_everywhere(copy, digits, where.split("/")[0 if "primary" in where else -1])


@pytest.mark.parametrize(
    "text", [DEEP, "[]", "{", '{"seeds": 1e999}', b"\xff", "null"], ids=range(6)
)
def test_a_spec_that_is_no_json_of_ours_is_one_error(
    copy: Path, digits: Task, text: str | bytes
) -> None:
    (copy / "spec.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused_everywhere(copy, digits, "")


def network(job: Study) -> object:
    return job.network(0.5, criterion="magnitude")


def refused_everywhere(out: Path, digits: Task, what: str) -> None:
    job = Study(digits, out=out, **PLAN)
    for use in (rebuild, opened, inspection, lambda _: job.run(), lambda _: network(job)):
        with pytest.raises(StudyError, match=rf"cannot read .*spec\.json: .*{what}"):
            use(out)


def test_options_of_another_version_are_one_error(copy: Path) -> None:
    spec = json.loads((copy / "spec.json").read_text())
    spec["options"]["\x1b[2J"] = 1
    (copy / "spec.json").write_text(json.dumps(spec))
    with pytest.raises(StudyError, match=r"the spec has options: .*put the file back") as caught:
        opened(copy)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("form", [1, 4, 6, None, "5", [5], 10**30])
def test_a_study_of_another_form_is_one_error(copy: Path, digits: Task, form: object) -> None:
    spec = json.loads((copy / "spec.json").read_text())
    (copy / "spec.json").write_text(json.dumps({**spec, "format": form}))
    job = Study(digits, out=copy, **PLAN)
    for use in (rebuild, opened, inspection, lambda _: job.run(), lambda _: network(job)):
        with pytest.raises(StudyError, match=r"a study of format .*, of another version of secat"):
            use(copy)


def test_descriptions_of_a_users_own_do_not_matter_to_a_report(
    digits: Task, tmp_path: Path
) -> None:
    """The bound of guessing is taken from `classes` and `test_images`, whatever those are."""
    own = {"classes": 10, "test_images": "many", "net": [1], "source": 3, "label_smoothing": {}}
    for number, images in enumerate(("many", 0, -1, True, 10**250)):
        task = replace(digits, name="mine", description={**own, "test_images": images})
        out = tmp_path / str(number)
        Study(task, out=out, **{**PLAN, "seeds": 1}).run()
        assert rebuild(out).files.html.exists()


@pytest.mark.parametrize(
    "text",
    [DEEP, "[]", '{"failed": "seed-0_gate", "why": 3}', "{", '{"why": "x"}'],
    ids=range(5),
)
def test_a_failure_that_cannot_be_read_is_left_out(copy: Path, text: str) -> None:
    (copy / "failures" / "seed-0_gate.json").write_text(text)
    with pytest.warns(CorruptFile, match=r"seed-0_gate\.json is left out"):
        rebuild(copy)
    with pytest.warns(CorruptFile, match="is left out"):
        inspection(copy)


def test_a_study_of_0_1_0_is_refused_and_stays_as_it_was(digits: Task, tmp_path: Path) -> None:
    out = Path(shutil.copytree(OLD, tmp_path / "old"))
    before = (out / "spec.json").read_bytes()
    job = Study(digits, out=out, **{**PLAN, "seeds": 1, "criteria": ("gate",)})
    for use in (rebuild, opened, inspection, lambda _: job.run(), lambda _: job.network(0.5)):
        with pytest.raises(StudyError, match="holds a study of format 2, of another version") as no:
            use(out)
        assert "report it with that version, or choose another directory" in str(no.value)
    assert (out / "spec.json").read_bytes() == before
    assert not [path for path in out.rglob("*.*") if path.name not in ("spec.json", ".lock")]


SCORES: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    (changed("scores/values", "!!!"), "scores are damaged"),
    (changed("scores/values", ""), "scores are "),
    (changed("scores/values", "A" * 10**6), r"scores have 1,000,000 letters"),
    (changed("scores/count", 354), "scores are of 355 examples, not of 354"),
    (changed("scores/count", 0), "n is 0, but must be"),
    (changed("scores/count", 10**12), "n is 1000000000000, but must be"),
]


@pytest.mark.parametrize(("change", "message"), SCORES)
def test_scores_that_say_nothing_are_one_error(
    copy: Path, change: Callable[[Any], None], message: str
) -> None:
    """The record is whole and of the right kinds: what is wrong is found when it is read."""
    content = record(copy, TRIAL)
    change(content)
    write(copy, TRIAL, content)
    for use in (rebuild, inspection):
        with pytest.raises(StudyError, match=message) as caught:
            use(copy)
        assert "'criterion': 'magnitude'" in str(caught.value)
        assert "delete that record and run the study again" in str(caught.value)


def test_scores_of_another_mean_are_one_error(copy: Path) -> None:
    content = record(copy, TRIAL)
    content["metrics"]["test"] += 1.0
    write(copy, TRIAL, content)
    with pytest.raises(StudyError, match=r"magnitude_keep-0\.5_batchnorm .*seed 0 has the mean"):
        rebuild(copy)


@pytest.mark.parametrize("classes", [[], [90.0], [90.0] * 11, [None] * 10, None])
def test_figures_of_other_classes_are_left_out(copy: Path, classes: Any) -> None:
    content = record(copy, TRIAL)
    write(copy, TRIAL, {**content, "classes": classes})
    summary = rebuild(copy).summary
    (row,) = (r for r in summary.rows if r.recovery == "batchnorm")
    assert row.class_drop is None
    (row,) = (r for r in summary.rows if r.recovery == "ladder")
    assert row.class_drop is not None


STOPPED = """
import os, signal, sys
from secateur import Study, classification

real = os.fsync
def fsync(descriptor):
    if sys.argv[2] in os.readlink(f"/proc/self/fd/{descriptor}"):
        os.kill(os.getpid(), signal.SIGKILL)
    real(descriptor)
os.fsync = fsync
plan = dict(keep=(0.5,), seeds=1, epochs=1, gate_epochs=1, calibration=128,
            criteria=("magnitude",), device="cpu")
Study(classification("digits", "mlp", progress=False), out=sys.argv[1], **plan).run(workers=1)
"""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    "at",
    [
        "spec.json",
        "seed-0_start.safetensors",
        "seed-0_start.json",
        "keep-0.5_ladder",
        "report.html",
    ],
)
def test_a_study_removes_what_killed_runs_of_it_left(digits: Task, tmp_path: Path, at: str) -> None:
    assert forked.run("-c", STOPPED, str(tmp_path), at).status == -signal.SIGKILL
    left = [path for path in tmp_path.rglob(".*") if at in path.name]
    assert len(left) == 1
    (tmp_path / "records" / ".seed-0_start.json.abcdefgh").write_text("of 0.1.0")
    (tmp_path / ".mine").write_text("not ours")
    early = time.time() - 100  # a report could be being rebuilt just now, but not for so long
    os.utime(left[0], (early, early))
    Study(digits, out=tmp_path, **{**PLAN, "seeds": 1}).run()
    hidden = {path.name for path in tmp_path.rglob(".*")}
    assert hidden - {".lock"} == {".mine"}
