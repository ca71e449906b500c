"""A study that is run, killed, resumed, damaged, and run again: it ends in the same numbers."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import secateur
from forked import Program
from secateur.errors import BudgetError, FileError, StudyError, UsageError
from secateur.nets.mlp import Mlp
from secateur.pruning.criteria import CRITERIA
from secateur.study.plan import Stage, items
from secateur.study.reading import CorruptFile, read_records
from secateur.study.results import rebuild
from secateur.study.store import Store
from secateur.study.study import Study
from secateur.study.task import ACCURACY, Task
from study_runs import copy_study, numbers

pytestmark = pytest.mark.usefixtures("undrawn")

SMALL: dict[str, Any] = {
    "keep": (0.8, 0.5, 0.1), "seeds": 2, "epochs": 3, "gate_epochs": 2, "calibration": 256,
}  # fmt: skip
RUN = """
import sys
from secateur import Study, classification
from secateur.study import report

report.printed = lambda *given, **options: {}
task = classification("digits", "mlp", progress=False)
Study(task, out=sys.argv[1], device="cpu", **PLAN).run(workers=1)
""".replace("PLAN", repr(SMALL))


def study(task: Task, out: Path, **options: Any) -> Study:
    return Study(task, out=out, device="cpu", **{**SMALL, **options})


@pytest.fixture(scope="module")
def finished(
    undrawn: None, digits: Task, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A study that ran through in one go."""
    directory = tmp_path_factory.mktemp("study")
    study(digits, directory).run(workers=1)
    return directory


def test_a_study_leaves_every_record_and_a_report(finished: Path, digits: Task) -> None:
    spec = study(digits, finished).spec
    ids = {item.id for item in items(spec.options, spec.seeds)}
    assert {path.stem for path in (finished / "records").glob("*.json")} == ids
    # the start; two rungs of three arms and their trials, and a level above the ladder of two of
    # them; and what is cut at once
    assert len(ids) == 2 * (2 + 2 * (3 + 3) + 2 + 2 * 3)
    for name in ("report.html", "results.csv", "spec.json"):
        assert (finished / name).stat().st_size > 0


def test_the_records_say_what_is_true(finished: Path, digits: Task) -> None:
    spec = study(digits, finished).spec
    trials, stages = read_records(finished, spec.hash)
    for record in trials:
        weights, trial = record["weights"], record["trial"]
        cut = trial["criterion"] not in ("start", "uncut")
        assert weights["kept"] == round((trial["keep"] if cut else 1) * weights["prunable"])
        assert sum(layer["kept"] for layer in weights["layers"].values()) == weights["kept"]
        assert record["versions"]["secateur"] == secateur.__version__
        assert record["hardware"]["cores"] >= 1
        assert record["precision"] in ("fp32", "bf16 autocast")
        assert record["scores"]["count"] == spec.description["test_images"]
        assert len(record["classes"]) == 10
        assert 0 <= record["calibration_error"] <= 100
    by_id = {tuple(r["trial"].values()): r["metrics"]["test"] for r in trials}
    for seed in spec.seeds:
        assert by_id[seed, "start", 1.0, "batchnorm"] > 80
        assert by_id[seed, "gate", 0.1, "ladder"] > by_id[seed, "random", 0.1, "batchnorm"]
    gates = [record for record in stages if record["stage"] == "gate"]
    assert {record["keep"] for record in gates} == {0.5, 0.1}
    assert all(sum(h["counts"]) > 0 for record in gates for h in record["gates"].values())


def test_killed_at_random_moments_it_ends_in_the_same_numbers(
    finished: Path, tmp_path: Path
) -> None:
    chance = random.Random(7)
    total = len(list((finished / "records").glob("*.json")))
    targets = sorted(chance.sample(range(0, total - 1), 4))
    kills = 0
    for target in targets:
        process = Program("-c", RUN, str(tmp_path))
        deadline = time.monotonic() + 120
        while len(list(tmp_path.glob("records/*.json"))) < target and process.status is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(chance.random() * 0.4)
        kills += process.status is None
        process.send(signal.SIGKILL)
        process.wait()
    assert kills >= 2
    done = Program("-c", RUN, str(tmp_path))
    done.wait()
    assert done.status == 0, done.err
    assert numbers(tmp_path) == numbers(finished)
    assert (tmp_path / "results.csv").read_bytes() == (finished / "results.csv").read_bytes()


def test_a_finished_study_is_not_done_again(finished: Path, digits: Task) -> None:
    events = []
    study(digits, finished).run(lambda event: events.append(event.kind))
    assert set(events) == {"found"}


def test_the_report_is_rebuilt_from_records_alone(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    for path in (finished / "records").glob("*.json"):
        (tmp_path / "records" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "spec.json").write_bytes((finished / "spec.json").read_bytes())
    rebuild(tmp_path)
    for name in ("report.html", "results.csv"):
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()


def test_a_corrupt_record_is_named_and_computed_again(
    finished: Path, digits: Task, tmp_path: Path
) -> None:
    copy_study(finished, tmp_path)
    trial = tmp_path / "records" / "seed-1_gate_keep-0.1_ladder.json"
    record = json.loads(trial.read_text())
    record["metrics"]["test"] = 99.9
    trial.write_text(json.dumps(record))
    with pytest.warns(CorruptFile, match=rf"{trial.name} is corrupt \(its content"):
        study(digits, tmp_path).run()
    assert numbers(tmp_path) == numbers(finished)
    assert trial.with_name(trial.name + ".corrupt").exists()


@pytest.mark.parametrize("damage", ["truncated", "gone"])
def test_a_damaged_checkpoint_is_named_and_trained_again(
    finished: Path, digits: Task, tmp_path: Path, damage: str
) -> None:
    copy_study(finished, tmp_path)
    (tmp_path / "records" / "seed-1_gate_keep-0.1_ladder.json").unlink()
    checkpoint = tmp_path / "checkpoints" / "seed-1_gate_rung-0.1.safetensors"
    if damage == "truncated":
        checkpoint.write_bytes(checkpoint.read_bytes()[:-7])
    else:
        checkpoint.unlink()
    with pytest.warns(CorruptFile, match=r"seed-1_gate_rung-0\.1\.safetensors is (corrupt|gone)"):
        study(digits, tmp_path).run(workers=1)
    assert numbers(tmp_path) == numbers(finished)


def test_all_of_a_ladder_is_trained_again_where_its_checkpoints_are_gone(
    finished: Path, digits: Task, tmp_path: Path
) -> None:
    copy_study(finished, tmp_path)
    for path in (tmp_path / "checkpoints").iterdir():
        path.unlink()
    with pytest.warns(CorruptFile, match="is gone"):
        again = study(digits, tmp_path).network(0.1)
    assert numbers(tmp_path) == numbers(finished)
    before = dict(study(digits, finished).network(0.1).named_parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in again.named_parameters())


def test_a_directory_of_another_spec_is_refused(finished: Path, digits: Task) -> None:
    with pytest.raises(StudyError, match=r"another spec .*margin: 0\.5 there, 0\.7 here"):
        study(digits, finished, margin=0.7).run()


def test_two_processes_on_one_directory(digits: Task, tmp_path: Path) -> None:
    job = study(digits, tmp_path)
    with (
        Store(tmp_path, job.spec),
        pytest.raises(StudyError, match="another process is working on the study"),
    ):
        job.run()


def test_an_output_directory_that_cannot_be_made(digits: Task, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match=r"cannot use .*file.*study directory"):
        study(digits, tmp_path / "file" / "study").run()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a full device")
def test_a_full_disk_leaves_nothing_half_written(
    digits: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = study(digits, tmp_path)
    with Store(tmp_path, job.spec) as store:
        full = os.open("/dev/full", os.O_WRONLY)
        monkeypatch.setattr("tempfile.mkstemp", lambda **_: (full, str(tmp_path / "temporary")))
        (tmp_path / "temporary").write_text("")
        with pytest.raises(FileError, match="No space left on device"):
            store.write(Stage(0, "start"), {"seconds": 1})
    assert not (tmp_path / "temporary").exists()
    assert not list((tmp_path / "records").iterdir())


def test_a_nan_loss_is_recorded_and_the_other_seeds_go_on(digits: Task, tmp_path: Path) -> None:
    """Seed 1 alone gets a NaN, in its first stage: a network is made for each start, in turn."""
    made: list[torch.nn.Module] = []

    def model() -> torch.nn.Module:
        made.append(digits.model())
        return made[-1]

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        bad = len(made) == 3  # the one that is copied, seed 0, seed 1
        return digits.loss(outputs, targets) * (float("nan") if bad else 1)

    task = replace(digits, model=model, loss=loss)
    with pytest.raises(StudyError, match=r"seed-1_start: .*gradient of step 0 is not finite"):
        study(task, tmp_path, criteria=("gate",), keep=(0.5,), seeds=3).run()
    why = json.loads((tmp_path / "failures" / "seed-1_start.json").read_text())["why"]
    assert "not finite" in why
    seeds = {path.name[:6] for path in (tmp_path / "records").glob("*gate*")}
    assert seeds == {"seed-0", "seed-2"}
    assert (tmp_path / "report.html").exists()
    # Tried again without the fault, it is completed, and nothing else is done twice.
    results = study(digits, tmp_path, criteria=("gate",), keep=(0.5,), seeds=3).run()
    assert not results.summary.missing
    assert not list((tmp_path / "failures").iterdir())


def test_a_model_with_nothing_to_prune(digits: Task, tmp_path: Path) -> None:
    bare = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    task = replace(digits, model=lambda: bare)
    with pytest.raises(UsageError, match="first layer"):
        study(task, tmp_path / "study").run()
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"keep": (0.1,), "criteria": ("magnitude",)},
        {"keep": (0.1,), "criteria": ("gate",)},
        {"keep": (0.5,), "lowest_keep": 0.05, "gates": "trunk"},
    ],
)
def test_floors_that_cannot_be_met_are_said_before_training(
    digits: Task, tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(BudgetError, match=r"the floor of 0\.3 in every tensor"):
        study(digits, tmp_path / "study", floor=0.3, **changes).run()
    assert not (tmp_path / "study").exists()


def test_floors_are_refused_only_where_something_is_cut_so_far(
    digits: Task, tmp_path: Path
) -> None:
    """A ladder learns at its own levels; what a trunk learns at is named."""
    floors: dict[str, Any] = {"keep": (0.5,), "floor": 0.3}
    assert study(digits, tmp_path / "ladder", **floors).run(workers=1).summary.rows
    trunk = study(digits, tmp_path / "trunk", gates="trunk", **floors)
    with pytest.raises(BudgetError, match=r"down to lowest_keep=0\.03, and that is too low"):
        trunk.run()


def test_a_users_own_task_is_the_same_kind_of_thing(digits: Task, tmp_path: Path) -> None:
    """Another model, loss and metric: lower is better, and the study knows nothing of digits."""

    def error(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(1) != targets).float()

    task = Task(
        name="mine",
        model=lambda: torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10)
        ),
        data=digits.data,
        loss=torch.nn.functional.cross_entropy,
        metric=replace(ACCURACY, name="error", unit="", function=error, higher_is_better=False),
        description={"version": 1},
    )
    results = study(task, tmp_path, seeds=2, margin=0.02).run()
    assert results.summary.metric == "error"
    assert not results.summary.higher_is_better


def test_every_criterion_and_recovery_runs_in_a_study_and_again_the_same(
    digits: Task, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "keep": (0.1,),
        "seeds": 1,
        "criteria": ("gate", "lamp", "magnitude", "obs", "random", "taylor", "wanda"),
        "criterion_images": 200,
        "reconstruct": 512,
        "unrepaired": True,
    }
    small = replace(digits, model=lambda: Mlp((1, 8, 8), 10, hidden=(128, 64)))
    results = study(small, tmp_path / "a", **options).run()
    rows = {(row.criterion, row.recovery): row.test.mean for row in results.summary.rows}
    recoveries = {recovery for _, recovery in rows}
    assert recoveries == {"none", "batchnorm", "reconstruct", "ladder"}
    assert [recovery for criterion, recovery in rows if criterion == "gate"] == ["ladder"]
    for criterion in ("lamp", "magnitude", "wanda", "obs", "taylor"):
        assert rows[criterion, "reconstruct"] > rows[criterion, "none"]
        assert rows[criterion, "ladder"] > rows["random", "none"]
    study(small, tmp_path / "b", **options).run()
    again = numbers(tmp_path / "b")
    first = numbers(tmp_path / "a")
    assert first == again
    for path in sorted((tmp_path / "b" / "records").glob("*keep*.json"))[::2]:
        path.unlink()  # as if it had been killed: each is done alone, from scores taken anew
    study(small, tmp_path / "b", **options).run()
    assert numbers(tmp_path / "b") == first


@pytest.mark.parametrize(("gates", "networks"), [("trunk", 1), ("ladder", 3)])
def test_all_cuts_of_a_criterion_follow_scores_taken_once(
    digits: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gates: str, networks: int
) -> None:
    """Of each network: down a ladder of two rungs, of the start and before each rung."""
    taken: list[int] = []
    criterion = CRITERIA["taylor"]

    def counted(*args: Any, seed: int, **kwargs: Any) -> Any:
        taken.append(seed)
        return criterion.rule(*args, seed=seed, **kwargs)

    monkeypatch.setitem(CRITERIA, "taylor", replace(criterion, rule=counted))
    plan: dict[str, Any] = {"keep": (0.5, 0.2), "criteria": ("taylor",), "criterion_images": 64}
    study(digits, tmp_path, gates=gates, epochs=1, gate_epochs=1, **plan).run()
    assert list(Counter(taken).values()) == [networks, networks]


def test_what_comes_after_the_start_follows_it_where_the_task_has_a_loss_for_that(
    digits: Task, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"keep": (0.5,), "seeds": 1, "criteria": ("gate",), "epochs": 1}
    logs = []
    for teach in (0.0, 0.5):
        directory = tmp_path / str(teach)
        study(digits, directory, teach=teach, **options).run()
        found = numbers(directory)
        logs.append(
            [found[f"seed-0_{n}"]["log"] for n in ("start", "gate_rung-0.5", "uncut_rung-0.5")]
        )
    (start, gate, uncut), (taught_start, taught_gate, taught_uncut) = logs
    assert start == taught_start
    assert gate != taught_gate
    assert uncut != taught_uncut
    study(replace(digits, imitation=None), tmp_path / "none", **options).run()
    alone = numbers(tmp_path / "none")
    assert [alone[f"seed-0_{n}"]["log"] for n in ("start", "gate_rung-0.5")] == [start, gate]
