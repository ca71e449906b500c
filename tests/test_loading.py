"""`mytask.py:task` and `package.module:task`, from Python and on the command line."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from secateur import Study
from secateur.cli import main
from secateur.errors import StudyError, UsageError
from secateur.study.loading import load_task
from secateur.study.opening import opened
from secateur.study.options import Options
from secateur.study.spec import Spec
from secateur.study.task import classification

SOURCE = """
import dataclasses
from secateur.study.task import ACCURACY, Task, classification

SIZE = 1
built_in = classification("digits", "mlp", progress=False)
task = dataclasses.replace(built_in, name="mine", description={})
told = dataclasses.replace(task, description={"version": 3})

def made():
    return task

def asking(size):
    return task

def wrong():
    return 7

def failing():
    raise KeyError("no such width")
"""
pytestmark = pytest.mark.usefixtures("undrawn")

PLAN = ["--keep", "0.5", "--seeds", "1", "--epochs", "1", "--gate-epochs", "1", "--device", "cpu"]
PLAN += ["--calibration", "64", "--criteria", "magnitude", "--workers", "1"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with a task in a file and in a package; nothing stays imported."""
    before = set(sys.modules)
    (tmp_path / "mytask.py").write_text(SOURCE)
    (tmp_path / "garden").mkdir()
    (tmp_path / "garden" / "__init__.py").write_text("")
    (tmp_path / "garden" / "shears.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith(("garden", "secateur_task_")):
            del sys.modules[name]


def command(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["secateur", *arguments])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as end:
        main()
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


@pytest.mark.parametrize("where", ["mytask.py", "./mytask.py", "garden.shears"])
@pytest.mark.parametrize("name", ["task", "made"])
def test_a_task_is_found_and_described_by_its_files_hash(
    folder: Path, where: str, name: str
) -> None:
    task = load_task(f"{where}:{name}")
    assert task.name == "mine"
    assert task.description == {
        "source": f"{where.removeprefix('./')}:{name}",
        "source_sha256": hashlib.sha256(SOURCE.encode()).hexdigest(),
    }


def test_a_task_that_describes_itself_is_believed(folder: Path) -> None:
    assert load_task("mytask.py:told").description == {"version": 3, "source": "mytask.py:told"}


def test_a_changed_file_is_another_study_and_the_same_file_elsewhere_is_not(folder: Path) -> None:
    address = Study(load_task("mytask.py:task")).spec.hash
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mytask.py").write_text(SOURCE)
    assert Study(load_task(f"{elsewhere}/mytask.py:task")).spec.hash == address
    (folder / "mytask.py").write_text(SOURCE + "# a word more\n")
    assert Study(load_task("mytask.py:task")).spec.hash != address


def test_a_file_finds_its_neighbours(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "garden" / "beside.py").write_text("from shears import told as task\n")
    monkeypatch.chdir("/")
    assert load_task(f"{folder}/garden/beside.py:task").name == "mine"
    sys.modules.pop("shears")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("mytask.py", r"'mytask.py' names no task; give FILE.py:NAME or PACKAGE.MODULE:NAME"),
        ("mytask.py:", "names no task"),
        ("mytask.py:a.b", "names no task"),
        ("my task:task", "names no task"),
        ("mytsk.py:task", r"no file mytsk.py .*did you mean mytask.py\?"),
        ("nowhere/x.py:task", "no file nowhere/x.py .*looked in .*nowhere"),
        ("garden.sheers:task", "no module 'garden.sheers' .*neither in .* nor installed"),
        ("meadow.shears:task", "no module 'meadow' "),
        ("mytask.py:taks", r"nothing named 'taks': its tasks are built_in, task, told; did you "
         r"mean mytask.py:task\?"),
        ("garden:task", "garden has nothing named 'task': it holds no secateur.Task at all"),
        ("mytask.py:SIZE", r"SIZE is of type int, not a secateur.*its tasks are built_in, task"),
        ("mytask.py:wrong", "wrong returns a value of type int, not a secateur"),
        ("mytask.py:asking", "asking takes size; a function that gives a task takes nothing"),
        ("mytask.py:failing", r"KeyError: 'no such width' \(.*mytask.py, line 20\)"),
        ("mytask.py:ACCURACY", "is of type Metric, not a secateur"),
    ],
)  # fmt: skip
def test_what_is_no_task_is_one_clear_error(folder: Path, reference: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_task(reference)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\ny = 1 / 0\n", r"ZeroDivisionError: division by zero \(.*bad.py, line 2\)"),
        ("\nimport nothing_like_it\n", r"ModuleNotFoundError: .*nothing_like_it.*bad.py, line 2\)"),
        ("def f(:\n", r"SyntaxError: .*\(.*bad.py, line 1\)"),
        ("import sys\n\n\nsys.exit(3)\n", r"SystemExit: 3 \(.*bad.py, line 4\)"),
        ("def f():\n    raise ValueError('width')\n\nf()\n", r"ValueError: width \(.*line 2\)"),
        ("import json\njson.loads('{')\n", r"JSONDecodeError: .*bad.py, line 2\)"),
    ],
)
@pytest.mark.parametrize("form", ["bad.py", "garden.bad"])
def test_an_error_while_importing_is_shown_with_its_line(
    folder: Path, source: str, message: str, form: str
) -> None:
    (folder / (form if form == "bad.py" else "garden/bad.py")).write_text(source)
    with pytest.raises(UsageError, match=rf"cannot load the task '{form}:task': {message}"):
        load_task(f"{form}:task")


def test_the_command_runs_resumes_and_reports_an_own_task(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = command(["study", "mytask.py:task", *PLAN], monkeypatch, capsys)
    assert code == 0, err
    (directory,) = (folder / "studies").iterdir()
    assert directory.name.startswith("mine-")
    assert "magnitude" in out
    spec = json.loads((directory / "spec.json").read_text())
    assert spec["task"]["source"] == "mytask.py:task"
    page = (directory / "report.html").read_text()
    assert "secateur study mytask.py:task --keep 0.5 --seeds 1" in page
    before = {path: path.stat().st_mtime_ns for path in directory.glob("records/*")}

    code, out, _ = command(["study", "mytask.py:task", *PLAN], monkeypatch, capsys)
    assert code == 0
    assert {path: path.stat().st_mtime_ns for path in directory.glob("records/*")} == before

    assert command(["report", str(directory)], monkeypatch, capsys)[0] == 0
    with pytest.raises(StudyError, match=r"load_task\('mytask.py:task'\)"):
        opened(directory)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mytask.py:task", "--data", "digits"], "only a built-in task takes --data"),
        (["mytask.py:task", "--net", "mlp", "--label-smoothing", "0"], "--net, --label-smoothing"),
        (["mytask.py:task", "--data-dir", "."], "--data-dir"),
        (["mytask.py:nothing"], "nothing named 'nothing'"),
    ],
)
def test_the_command_refuses_what_does_not_go_together(
    folder: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _, err = command(["study", *arguments], monkeypatch, capsys)
    assert code == 2
    assert message in err
    assert not (folder / "studies").exists()


def test_the_help_explains_own_tasks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = command(["study", "--help"], monkeypatch, capsys)
    for text in ("FILE.py:NAME", "PACKAGE.MODULE:NAME", "[default: cifar10]", "[default: the"):
        assert text in out


def test_a_study_of_an_own_task_is_compiled_with_that_task(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnx")
    study = ["study", "mytask.py:task", *PLAN, "--out", "out"]
    assert command(study, monkeypatch, capsys)[0] == 0
    ask = ["compile", "out", "--keep", "0.5", "--criterion", "magnitude"]
    code, _, err = command(ask, monkeypatch, capsys)
    assert code == 1
    assert "--task mytask.py:task" in " ".join(err.split())
    code, out, _ = command([*ask, "--task", "mytask.py:task"], monkeypatch, capsys)
    assert code == 0
    assert "verified" in out
    code, _, err = command([*ask, "--task", "mytask.py:told"], monkeypatch, capsys)
    assert code == 1
    assert "is not of task 'mine' as it is now" in " ".join(err.split())


def test_a_study_of_an_older_secateur_is_not_taken_for_another_task(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = Spec.of(classification("digits", "mlp", progress=False), Options()).as_json()
    (folder / "old").mkdir()
    (folder / "old" / "spec.json").write_text(json.dumps({**spec, "format": 3}))
    code, _, err = command(["compile", "old", "--keep", "0.5"], monkeypatch, capsys)
    assert code == 1
    assert "a study of format 3, of another version of secateur" in " ".join(err.split())
