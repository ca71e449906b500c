"""A study that gets more seeds: what was done is not done again, and the report says so."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from secateur.errors import StudyError, UsageError
from secateur.study import matching
from secateur.study.checkpoints import read
from secateur.study.growing import REUSED, earlier
from secateur.study.plan import Event
from secateur.study.reading import CorruptFile, read_matched
from secateur.study.results import Results, rebuild
from secateur.study.study import Study
from secateur.study.task import Task
from secateur.terminal.verification import verify
from study_runs import copy_study, numbers, record
from test_cli import run
from test_study_as_fast import found

pytestmark = pytest.mark.usefixtures("undrawn")

PLAN: dict[str, Any] = {
    "keep": (0.5, 0.1), "criteria": ("gate",), "epochs": 1, "gate_epochs": 1, "smaller": 0.1,
    "calibration": 128, "device": "cpu",
}  # fmt: skip
STAGE = "seed-0_gate_rung-0.1"
COMMAND = ["study", "--data", "digits", "--net", "mlp", "--keep", "0.5", "--criteria", "gate"]
COMMAND += ["--epochs", "1", "--gate-epochs", "1", "--smaller", "0", "--calibration", "64"]
COMMAND += ["--device", "cpu", "--workers", "1", "--no-measure"]


@pytest.fixture(scope="module")
def one(undrawn: None, digits: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study of one seed."""
    out = tmp_path_factory.mktemp("one")
    Study(digits, out=out, seeds=1, **PLAN).run(workers=1)
    return out


@pytest.fixture(scope="module")
def two(undrawn: None, digits: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study of two seeds, which never was a smaller one."""
    out = tmp_path_factory.mktemp("two")
    Study(digits, out=out, seeds=2, **PLAN).run(workers=1)
    return out


def grown(task: Task, out: Path, source: Path, seeds: int = 2) -> tuple[Results, list[Event]]:
    """Grow a study; what it did and found."""
    events: list[Event] = []
    study = Study(task, out=out, seeds=seeds, grow=source, **PLAN)
    return study.run(events.append, workers=1), events


def taken(directory: Path) -> dict[str, Any]:
    """The numbers of a study, but for where it says that they are from."""
    return {
        item: {key: value for key, value in each.items() if key not in ("spec", REUSED)}
        for item, each in numbers(directory).items()
    }


def test_seeds_that_are_there_are_not_done_again_and_the_numbers_are_the_same(
    digits: Task, one: Path, two: Path, tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in one.rglob("*") if path.is_file()}
    results, events = grown(digits, tmp_path, one)
    assert {event.item.seed for event in events if event.kind == "begin"} == {1}
    assert {event.item.seed for event in events if event.kind == "found"} == {0}
    assert taken(tmp_path) == taken(two)
    assert results.summary.rows == rebuild(two).summary.rows
    assert record(tmp_path, STAGE)[REUSED] == [{"spec": record(one, STAGE)["spec"], "seeds": 1}]
    assert REUSED not in record(tmp_path, "seed-1_start")
    assert verify(tmp_path).whole
    assert verify(one).whole
    assert before == {path: path.read_bytes() for path in one.rglob("*") if path.is_file()}
    model = Study(digits, out=tmp_path, seeds=2, **PLAN).network(0.1)
    other = Study(digits, out=two, seeds=2, **PLAN).network(0.1)
    assert all(
        bool((a == b).all()) for a, b in zip(model.parameters(), other.parameters(), strict=True)
    )


def test_the_report_says_that_the_number_was_grown_each_time(
    digits: Task, one: Path, two: Path, tmp_path: Path
) -> None:
    second, _ = grown(digits, tmp_path / "second", one)
    third, events = grown(digits, tmp_path / "third", tmp_path / "second", seeds=3)
    assert second.summary.grown == (1,)
    assert third.summary.grown == (1, 2)
    assert {event.item.seed for event in events if event.kind == "begin"} == {2}
    page = third.files.html.read_text()
    assert "The number of seeds was grown" in page
    assert "It had 1, then 2, then 3 seeds." in page
    assert "certified in up to 15\u00a0% of studies, not 5\u00a0% (3 looks)" in page
    assert "--first-seed 3" in page
    assert third.document()["grown"] == [1, 2]
    assert "was grown" not in rebuild(two).files.html.read_text()
    assert rebuild(two).document()["grown"] == []


def unlink(path: Path) -> None:
    path.unlink()


def damage(path: Path) -> None:
    path.write_text(path.read_text()[:-9])


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        (f"records/{STAGE}.json", unlink),
        ("records/seed-0_gate_keep-0.5_ladder.json", damage),
        (f"checkpoints/{STAGE}.safetensors", unlink),
        (f"checkpoints/{STAGE}.safetensors", lambda path: path.write_bytes(b"damaged")),
    ],
)
def test_a_seed_that_is_not_complete_is_done_anew(
    digits: Task, one: Path, two: Path, tmp_path: Path, name: str, spoil: Any
) -> None:
    copy_study(one, tmp_path / "source")
    spoil(tmp_path / "source" / name)
    results, events = grown(digits, tmp_path / "study", tmp_path / "source")
    assert {event.item.seed for event in events if event.kind == "begin"} == {0, 1}
    assert not results.summary.grown
    assert numbers(tmp_path / "study") == numbers(two)


def test_growing_that_was_killed_goes_on(
    digits: Task, one: Path, two: Path, tmp_path: Path
) -> None:
    """A checkpoint without its record is written again, also where it is half a file."""
    grown(digits, tmp_path, one)
    for path in tmp_path.glob("records/seed-0_gate*"):
        path.unlink()
    (tmp_path / "checkpoints" / f"{STAGE}.safetensors").unlink()
    (tmp_path / "checkpoints" / f"{STAGE}.safetensors").write_bytes(b"half")
    _, events = grown(digits, tmp_path, one)
    assert not any(event.kind == "begin" for event in events)
    assert taken(tmp_path) == taken(two)
    assert read(one / "checkpoints" / f"{STAGE}.safetensors").masks is not None


def test_a_file_system_without_links_gets_copies(
    digits: Task, one: Path, two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    grown(digits, tmp_path / "linked", one)
    monkeypatch.setattr(os, "link", refused)
    grown(digits, tmp_path / "copied", one)
    name = f"checkpoints/{STAGE}.safetensors"
    assert (tmp_path / "linked" / name).samefile(one / name)
    assert not (tmp_path / "copied" / name).samefile(one / name)
    assert taken(tmp_path / "copied") == taken(two)


def test_a_damaged_checkpoint_is_trained_again_and_the_source_stays(
    digits: Task, one: Path, tmp_path: Path
) -> None:
    grown(digits, tmp_path, one)
    path = tmp_path / "checkpoints" / f"{STAGE}.safetensors"
    path.unlink()
    path.write_bytes(b"damaged")
    with pytest.warns(CorruptFile):
        Study(digits, out=tmp_path, seeds=2, **PLAN).network(0.1)
    assert path.read_bytes() == (one / "checkpoints" / f"{STAGE}.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"seeds": 2, "epochs": 2}, r"epochs: 1 there, 2 here, seeds: \[0\] there, \[0, 1\] here"),
        ({"seeds": 2, "first_seed": 5}, r"seeds: \[0\] there, \[5, 6\] here"),
        ({"seeds": 1}, "nothing"),
    ],
)
def test_another_study_is_refused_before_anything_is_written(
    digits: Task, one: Path, tmp_path: Path, changes: dict[str, Any], what: str
) -> None:
    out = tmp_path / "study"
    study = Study(digits, out=out, grow=one, **{**PLAN, **changes})
    with pytest.raises(StudyError, match=rf"not this one with fewer seeds.*differ in \S*{what}\)"):
        study.run()
    assert not out.exists()


def test_what_to_do_is_said_where_a_directory_has_fewer_seeds(
    digits: Task, one: Path, tmp_path: Path
) -> None:
    copy_study(one, tmp_path)
    with pytest.raises(StudyError, match=rf"take its seeds over with --grow {tmp_path}"):
        Study(digits, out=tmp_path, seeds=2, **PLAN).run()
    with pytest.raises(StudyError, match="or give the options it was started with"):
        Study(digits, out=tmp_path, seeds=1, **{**PLAN, "epochs": 3}).run()
    with pytest.raises(UsageError, match="grow"):
        Study(digits, out=tmp_path, grow=3, **PLAN)  # type: ignore[arg-type]


def test_the_width_that_was_measured_is_taken_over(
    digits: Task, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "match", lambda *_, **__: found())
    copy_study(one, tmp_path / "source")
    source = Study(digits, out=tmp_path / "source", seeds=1, **PLAN)
    source.match()
    source.run(workers=1)
    results, events = grown(digits, tmp_path / "study", tmp_path / "source")
    assert {event.item.seed for event in events if event.kind == "begin"} == {1}
    assert [row.n for row in results.summary.lines if row.criterion == "as-fast"] == [2]
    study = Study(digits, out=tmp_path / "study", seeds=2, **PLAN)
    assert read_matched(study.directory, study.spec.hash) == found()
    # a study that has found another width of its own has no use for these
    other = Study(digits, out=tmp_path / "other", seeds=2, **PLAN)
    other.run(workers=1)
    monkeypatch.setattr(matching, "match", lambda *_, **__: found(0.25))
    other.match()
    with pytest.raises(StudyError, match=r"width 0\.25 here and 0\.5"):
        Study(digits, out=other.directory, seeds=2, grow=source.directory, **PLAN).run()


def test_the_command_finds_the_smaller_study_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, _ = run([*COMMAND, "--seeds", "1"], monkeypatch, capsys)
    assert code == 0
    (first,) = Path("studies").iterdir()
    shutil.copytree(first, first.with_name("digits-mlp-000000000000-copy"))  # not of that form
    code, out, err = run([*COMMAND, "--seeds", "2"], monkeypatch, capsys)
    assert code == 0, err
    said = " ".join(out.split())
    assert f"seeds that are complete in {first} are taken over" in said
    assert "warning: the number of seeds was grown. It had 1, then 2 seeds." in " ".join(
        err.split()
    )
    (second,) = (p for p in Path("studies").iterdir() if "copy" not in p.name and p != first)
    assert json.loads((second / "spec.json").read_text())["seeds"] == [0, 1]
    code, out, _ = run([*COMMAND, "--seeds", "2", "--out", "apart"], monkeypatch, capsys)
    assert code == 0
    assert "taken over" not in out
    assert taken(Path("apart")) == taken(second)


def test_of_several_smaller_studies_the_largest_is_taken(
    digits: Task, one: Path, two: Path, tmp_path: Path
) -> None:
    names = [f"digits-mlp-{letter * 12}" for letter in "abc"]
    copy_study(one, tmp_path / names[1])
    copy_study(two, tmp_path / names[0])
    (tmp_path / names[2]).mkdir()
    spec = Study(digits, out=tmp_path / "x", seeds=3, **PLAN).spec
    assert earlier(spec, tmp_path / f"digits-mlp-{'0' * 12}") == tmp_path / names[0]
    assert earlier(spec, tmp_path / f"digits-convnet-{'0' * 12}") is None
    fewer = Study(digits, out=tmp_path / "x", seeds=1, **PLAN).spec
    assert earlier(fewer, tmp_path / f"digits-mlp-{'0' * 12}") is None
