"""Items that fail: they are recorded, the others go on, and a rerun tries them again."""

from __future__ import annotations

import errno
import json
import re
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import forked
from failing_study import PLAN, Faulty, at, done, failed, faulty, raising, run
from secateur.errors import DataError, FileError, StudyError, UsageError
from secateur.study.plan import Event, Stage, seed_for
from secateur.study.results import rebuild
from secateur.study.store import Store
from secateur.study.study import Study
from secateur.study.task import Task

pytestmark = pytest.mark.usefixtures("undrawn")


class HostileError(Exception):
    """Says nothing good of itself."""

    def __str__(self) -> str:
        raise RuntimeError("no message")


class BuriedError(RuntimeError):
    """Its very name and notes are no text for a terminal."""

    __notes__ = 3


BuriedError.__name__ = "Bad\x1b[2JName\n"


@pytest.mark.parametrize(
    ("what", "why"),
    [
        (lambda x: x * float("nan"), r"^(?!.*\.py).*(NaN|not finite)"),
        (raising(ValueError("my data")), r"^ValueError: my data \(.*failing_study\.py, line"),
        (raising(DataError("of the loader")), r"^of the loader$"),
        (raising(UsageError("wrong")), r"^wrong$"),
        (raising(MemoryError()), r"^MemoryError \("),
        (raising(torch.OutOfMemoryError("CUDA out of memory")), r"^OutOfMemoryError: CUDA out"),
        (raising(HostileError()), r"^HostileError: \(its message cannot be shown\) \("),
        (raising(BuriedError("a\x1b]0;b\x07\r\nc\u202e" + "d" * 10**6)),
         r"^Bad\\x1b\[2JName\\n: a\\x1b\]0;b\\x07 c\\u202ed+… \(.*, line \d+\)$"),
        (raising(RuntimeError("half \ud800")), r"half \\ud800"),
        (lambda x: x[:, :, 1:], r"^RuntimeError: mat1 and mat2"),
        (raising(RecursionError("deep")), r"^RecursionError: deep"),
    ],
    ids=["nan", "value", "data", "usage", "memory", "cuda", "str", "hostile", "half", "shape",
         "recursion"],
)  # fmt: skip
def test_a_failure_of_one_seeds_stage_is_its_own(
    digits: Task, tmp_path: Path, what: Callable[[Tensor], Tensor], why: str
) -> None:
    with pytest.raises(StudyError) as caught:
        run(faulty(digits, 0, "gate_rung-0.5", what), tmp_path)
    (line,) = str(caught.value).split("\n")[1:]  # one failure, one line
    assert line.startswith("- seed-0_gate_rung-0.5: ")
    assert line.isprintable()
    assert len(line) < 1000
    found = failed(tmp_path)
    assert set(found) == {"seed-0_gate_rung-0.5"}
    assert re.search(why, found["seed-0_gate_rung-0.5"]["why"])
    assert "Traceback" in found["seed-0_gate_rung-0.5"]["traceback"]
    items = {"start", "start_keep-1_batchnorm", "uncut_rung-0.5", "uncut_keep-0.5_ladder"}
    items |= {"magnitude_rung-0.5", "magnitude_keep-0.5_ladder", "magnitude_keep-0.5_batchnorm"}
    gates = {"gate_rung-0.5", "gate_keep-0.5_ladder"}
    assert done(tmp_path) == {f"seed-0_{i}" for i in items} | {f"seed-1_{i}" for i in items | gates}
    # Without the fault it is completed, and nothing is done twice.
    events: list[Event] = []
    results = Study(digits, out=tmp_path, **PLAN).run(events.append)
    again = {e.item.id for e in events if e.kind == "begin"}
    assert again == {f"seed-0_{item}" for item in gates}
    assert not results.summary.missing
    assert not failed(tmp_path)


def test_without_its_first_stage_all_of_a_seed_is_left_out(digits: Task, tmp_path: Path) -> None:
    events: list[tuple[str, str]] = []
    job = Study(faulty(digits, 0, "start", raising(OSError("gone"))), out=tmp_path, **PLAN)
    with pytest.raises(StudyError, match=r"\n- seed-0_start: OSError: gone"):
        job.run(lambda event: events.append((event.item.id, event.kind)))
    assert all(name.startswith("seed-1") for name in done(tmp_path))
    of_first = [(item, kind) for item, kind in events if item.startswith("seed-0")]
    assert of_first[:2] == [("seed-0_start", "begin"), ("seed-0_start", "failed")]
    assert {kind for _, kind in of_first[2:]} == {"omitted"}
    assert len(of_first) == 1 + len({item for item, _ in of_first})  # each is told of


@pytest.mark.parametrize("part", ["loss", "metric", "model", "output"])
def test_every_part_of_a_task_may_fail_at_any_time(digits: Task, tmp_path: Path, part: str) -> None:
    """After so many calls it fails for good: what was done stays, the rest is recorded."""
    calls = [0]

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            calls[0] += 1
            if calls[0] > limit:
                raise LookupError(f"the {part} broke")
            return function(*arguments)

        return call

    limit = {"loss": 33, "metric": 25, "model": 2, "output": 60}[part]
    changes: dict[str, Any] = {
        "loss": {"loss": counted(digits.loss)},
        "metric": {"metric": replace(digits.metric, function=counted(digits.metric.function))},
        "model": {"model": counted(digits.model)},
        "output": {"output": counted(lambda given: given)},
    }[part]
    with pytest.raises(StudyError, match=rf"LookupError: the {part} broke"):
        run(replace(digits, **changes), tmp_path)
    assert done(tmp_path)
    assert failed(tmp_path)
    assert not done(tmp_path) & set(failed(tmp_path))
    assert not run(digits, tmp_path).summary.missing


def test_a_users_training_loop_may_fail(digits: Task, tmp_path: Path) -> None:
    def train(model: Any, data: Any, recipe: Any, loss: Any, *, seed: int) -> None:
        raise KeyError("no such thing")

    with pytest.raises(StudyError, match=r"nothing of the study(?s:.*)KeyError: 'no such thing'"):
        run(replace(digits, train=train), tmp_path, criteria=("random",))
    assert set(failed(tmp_path)) == {"seed-0_start", "seed-1_start"}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_who_wants_to_stop_stops(digits: Task, tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        run(faulty(digits, 0, "uncut_rung-0.5", raising(error)), tmp_path)
    assert not failed(tmp_path)
    assert not any("rung" in name for name in done(tmp_path))


def test_an_observers_exception_ends_the_study_and_is_nobodys_failure(
    digits: Task, tmp_path: Path
) -> None:
    def observe(event: Event) -> None:
        if event.kind == "epoch" and event.item.id == "seed-0_gate_rung-0.5":
            raise BrokenPipeError("nobody listens")

    with pytest.raises(BrokenPipeError, match="nobody listens"):
        Study(digits, out=tmp_path, **PLAN).run(observe)
    assert not failed(tmp_path)


def test_a_full_disk_ends_the_study(
    digits: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The study's own disk; whatever else a task's code cannot write is that item's failure."""
    real = tempfile.mkstemp

    def full(**arguments: Any) -> Any:
        if ".seed-0_uncut" in str(arguments["prefix"]):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(**arguments)

    monkeypatch.setattr(tempfile, "mkstemp", full)
    with pytest.raises(FileError, match=r"seed-0_uncut.*No space left on device"):
        run(digits, tmp_path)
    assert not failed(tmp_path)
    monkeypatch.undo()
    assert not run(digits, tmp_path).summary.missing


def test_the_report_names_what_failed(digits: Task, tmp_path: Path) -> None:
    message = "<script>alert(1)</script> & [red]"
    with pytest.raises(StudyError):
        run(faulty(digits, 0, "gate_rung-0.5", raising(ValueError(message))), tmp_path)
    page = rebuild(tmp_path).files.html.read_text(encoding="utf-8")
    assert "1 item failed" in page
    assert (
        "seed-0_gate_rung-0.5: ValueError: &lt;script&gt;alert(1)&lt;/script&gt; &amp; [red]"
        in page
    )
    assert message not in page


def test_a_criterion_that_failed_with_every_seed_leaves_the_others_a_report(
    digits: Task, tmp_path: Path
) -> None:
    wrong, fault = (
        {at(0, "gate_rung-0.5"), at(1, "gate_rung-0.5")},
        raising(ArithmeticError("of gates only")),
    )
    with pytest.raises(StudyError) as caught:
        run(replace(digits, data=lambda device: Faulty(digits, wrong, fault)), tmp_path)
    assert [line.split(":")[0] for line in str(caught.value).split("\n")[1:]] == [
        "- seed-0_gate_rung-0.5",
        "- seed-1_gate_rung-0.5",
    ]
    summary = rebuild(tmp_path).summary
    assert {row.criterion for row in summary.rows} == {"magnitude"}
    assert len(summary.missing) == 2


def test_weights_that_end_infinite_fail_the_stage_and_not_every_cut(
    digits: Task, tmp_path: Path
) -> None:
    """Were such a stage kept as done, no rerun could ever mend it."""

    class Overflows(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = digits.model()
            self.other = torch.nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            if self.training:  # as a last step does, whose gradient was finite
                with torch.no_grad():
                    self.other.weight.fill_(float("inf"))
            return self.net(x)

    task = replace(digits, model=Overflows)
    with pytest.raises(StudyError, match=r"seed-0_start: after training, other\.weight is not fin"):
        run(task, tmp_path)
    assert not done(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": raising(KeyError("weights"))}, r"model of task .* built: KeyError: 'weights'"),
        ({"data": raising(OSError("no disk"))}, r"data of task .* loaded: OSError: no disk"),
        ({"loss": raising(HostileError())}, r"loss of .* HostileError: \(its message cannot"),
        ({"output": raising(LookupError("out"))}, r"model of .* LookupError: out"),
    ],
)
def test_before_anything_is_written_a_failure_is_one_usage_error(
    digits: Task, tmp_path: Path, changes: Any, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        run(replace(digits, **changes), tmp_path / "study")
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("method", ["epoch", "evaluation", "batches_per_epoch"])
def test_data_that_raises_before_anything_is_written(
    digits: Task, tmp_path: Path, method: str
) -> None:
    class Bad(Faulty):
        pass

    setattr(Bad, method, raising(ZeroDivisionError("by zero")))
    task = replace(digits, data=lambda device: Bad(digits, set(), abs))
    with pytest.raises(UsageError, match=r"data of task .* ZeroDivisionError: by zero"):
        run(task, tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_the_command_ends_with_a_line_for_each_failure(tmp_path: Path) -> None:
    doomed = seed_for(Stage(1, "start"), "train")
    (tmp_path / "mine.py").write_text(
        "import secateur, torch\n"
        "from dataclasses import replace\n"
        "base = secateur.classification('digits', 'mlp', progress=False)\n"
        "def loss(outputs, targets):\n"
        f"    if torch.initial_seed() == {doomed}:\n"
        "        raise ValueError('mine,\\nin two lines')\n"
        "    return base.loss(outputs, targets)\n"
        "task = replace(base, name='mine', loss=loss, description={})\n"
    )
    words = "--keep 0.5 --seeds 2 --epochs 1 --gate-epochs 1 --calibration 128"
    words += " --criteria magnitude --margin 0.5 --workers 1 --out study"
    ended = forked.run("-m", "secateur", "study", "mine.py:task", *words.split(), folder=tmp_path)
    assert ended.status == 1
    assert "Traceback" not in ended.err
    assert "seed-1_start: ValueError: mine, in two lines" in ended.err
    assert (tmp_path / "study" / "report.html").exists()
    assert json.loads((tmp_path / "study/failures/seed-1_start.json").read_text())["traceback"]


def test_a_store_keeps_the_end_of_a_long_traceback(digits: Task, tmp_path: Path) -> None:
    error = ValueError("x" * 10**6)
    with Store(tmp_path, Study(digits, out=tmp_path, **PLAN).spec) as store:
        line = store.write_failure(Stage(0, "start"), error)
        assert len(line) < 1500
        assert store.why_failed(Stage(0, "start")) in line
    assert (tmp_path / "failures" / "seed-0_start.json").stat().st_size < 50_000
