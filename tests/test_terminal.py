"""What is printed: text as it is, whoever wrote it, in any encoding, until nobody reads it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from bench_cases import result, timing
from secateur.bench import view
from secateur.bench.result import Step
from secateur.cli import main
from secateur.console import Words, console, spelt
from secateur.data.download import announce
from secateur.errors import UsageError
from secateur.pruning.files.model_file import save
from secateur.pruning.files.reading import read_info
from secateur.study.summary import summarise
from secateur.terminal import tables
from secateur.terminal.inspection import inspection
from study_records import plan, trials
from test_cli import QUICK, run

pytestmark = pytest.mark.usefixtures("undrawn")

Capture = pytest.CaptureFixture[str]

# Ends markup that was never begun, begins some, names an emoji, clears the screen in three ways,
# rings, turns the direction of writing, is no character at all.
HOSTILE = "a[/b][red]:bomb: \x1b[2J\x9b2J\x1b]0;t\x07\u202eb\r\udcff"
SHOWN = r"a[/b][red]:bomb: \x1b[2J\x9b2J\x1b]0;t\x07\u202eb\r\udcff"
ENCODINGS = ["ascii", "latin-1", "cp1252", "cp437", "utf-8", "utf-16"]


def tame(text: str) -> str:
    """Return a text, of which every line must be printable."""
    for line in text.split("\n"):
        assert line.isprintable(), line
    return text


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that was run where its name, its terminal and its reader were against it."""
    folder = tmp_path_factory.mktemp("of") / "a[/b]"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["secateur", "study", *QUICK, "--out", str(folder)])
        code, out, err = printed("ascii", patch)
    assert code == 0, err
    assert "a[/b]" in out
    return folder


def printed(encoding: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str, str]:
    """Run the command line of sys.argv on streams of an encoding, which refuse what they lack."""
    raw = io.BytesIO(), io.BytesIO()
    with monkeypatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        for name, content in zip(("stdout", "stderr"), raw, strict=True):
            patch.setattr(sys, name, io.TextIOWrapper(content, encoding, errors="strict"))
        with pytest.raises(SystemExit) as end:
            main()
        assert sys.stdout.errors == "strict"  # as it was
    out, err = (content.getvalue().decode(encoding) for content in raw)
    return int(end.value.code or 0), tame(out), tame(err)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    "command", ["report", "report --all", "inspect", "doctor", "--help", "study --help", "no"]
)
def test_every_command_speaks_every_encoding(
    command: str, encoding: str, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = command.split() + [str(study)] * command.startswith(("report", "inspect"))
    monkeypatch.setattr(sys, "argv", ["secateur", *words])
    code, out, err = printed(encoding, monkeypatch)
    assert code == (2 if command == "no" else 0), err
    if command.startswith("report"):
        sign = "±" if encoding in ("latin-1", "cp1252", "cp437", "utf-8", "utf-16") else "+/-"
        assert f"accuracy {sign} 95 % interval" in out
        assert ("difference (− is" in out) == encoding.startswith("utf")
        grid = [line for line in out.splitlines() if line[:1] in "|+┏┃┡│└├"]
        assert len({len(line) for line in grid}) == 1  # columns stay in line
        assert len(grid) >= (9 if "--all" in command else 5)  # frame, heading, and rows


def test_a_text_is_spelt_in_what_there_is() -> None:
    assert spelt("−1 ± 2 × 3 → é", "ascii") == r"-1 +/- 2 x 3 -> \xe9"
    assert spelt("−1 ± 2 × 3 → é", "latin-1") == "-1 ± 2 × 3 -> é"
    assert spelt("−1 ± 2 × 3 → é", "utf-8") == "−1 ± 2 × 3 → é"


def shown(thing: Any) -> str:
    stream = io.StringIO()
    Console(file=stream, width=300, markup=True, emoji=True).print(thing)
    return tame(stream.getvalue())


def tensors(path: Path) -> Path:
    path = path.with_suffix(".safetensors")
    name = HOSTILE.replace("\udcff", "")
    save_file({name: torch.ones(2)}, path, {"format": "pt", name: name})
    return path


def record(path: Path) -> Path:
    path = path.with_suffix(".json")
    name = HOSTILE.replace("\udcff", "")
    path.write_text(json.dumps({name: [name, "\x9b"]}))
    return path


@pytest.mark.parametrize("make", [tensors, record])
def test_what_a_file_holds_is_shown_and_not_obeyed(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    found = shown(inspection(make(tmp_path / "x")))
    assert r"a[/b][red]:bomb:" in found
    assert r"\x9b" in found
    assert r"\u202eb" in found


def test_records_from_elsewhere_are_shown_and_not_obeyed() -> None:
    name, seen = HOSTILE.replace("\udcff", "!"), SHOWN.replace(r"\udcff", "!")
    spec = plan(metric={"name": name, "unit": name, "higher_is_better": True})
    summary = summarise(spec, trials(spec))
    for table in (tables.primary, tables.everything):
        found = shown(table(summary))
        assert f"margin {spec['margin']:g} {seen}" in found
        assert found.count(seen) > 1


def test_layers_of_a_network_are_shown_and_not_obeyed() -> None:
    step = Step(1, HOSTILE, HOSTILE, HOSTILE, 10, 10, 0.1)
    ours = timing(HOSTILE, 1, 0.2, 0.2)
    found = replace(result(ours, timing("peer", 1, 0.1, 0.1), steps=(step,)), model=HOSTILE)
    text = shown(view(found))
    assert text.count("[/b][red]:bomb:") >= 5


def test_a_message_is_one_line_of_text(capsys: Capture) -> None:
    announce(HOSTILE)
    assert capsys.readouterr().err == SHOWN + "\n"
    assert shown(Words("one\ntwo", lines=True)) == "one\ntwo\n"
    assert shown(Words("one\ntwo")) == "one\\ntwo\n"
    with console().status(Words(HOSTILE)):
        pass


@pytest.mark.parametrize(
    "words",
    [
        ["study", HOSTILE],
        ["study", f"{HOSTILE}.py:task"],
        ["study", "--net", HOSTILE],
        ["study", "--keep", HOSTILE],
        ["report", HOSTILE],
        ["inspect", HOSTILE],
        ["compile", HOSTILE],
        ["compile", f"{HOSTILE}.onnx", "--target", HOSTILE],
        ["compile", f"{HOSTILE}.onnx", "-o", f"{HOSTILE}/x"],
        ["compile", "x.onnx", "--input-shape", HOSTILE],
        ["compile", "x.onnx", "--int8", "--calibrate", HOSTILE],
        ["quantize", "x.onnx", "--calibrate", HOSTILE],
        ["quantize", "x.onnx", "--calibrate", "x.npy", "-o", f"{HOSTILE}/x"],
        ["bench", f"{HOSTILE}.onnx"],
        ["bench", "x", "--against", HOSTILE],
    ],
    ids=lambda words: " ".join(words).replace(HOSTILE, "HOSTILE"),
)
def test_an_error_is_shown_and_not_obeyed(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(words, monkeypatch, capsys)
    assert code in (1, 2)
    assert "[/b][red]:bomb:" in tame(err)
    assert not tame(out)


@pytest.mark.parametrize(
    "words",
    [
        [HOSTILE],
        ["compile", "a.onnx", HOSTILE],
        ["compile", "a.onnx", f"--{HOSTILE}"],
        ["study", "--epochs", "1", "x", HOSTILE],
        [f"--{HOSTILE}"],
        ["doctor", HOSTILE],
    ],
    ids=lambda words: " ".join(words).replace(HOSTILE, "HOSTILE"),
)
def test_arguments_that_no_command_takes_are_shown_and_not_obeyed(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    code, out, err = run(words, monkeypatch, capsys)
    assert code == 2
    assert not out
    usage, hint, message, rest = tame(err).split("\n")
    command = "secateur" + f" {words[0]}" * (len(words) > 1 or words[0] == "doctor")
    assert usage.startswith("Usage: ")
    assert f"{command} [" in usage
    assert f"{command} --help`" in hint
    assert message.startswith("secateur: ")
    assert "[/b][red]:bomb:" in message
    assert not rest


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["compile"], "model"),
        (["study", "--epochs", "many"], "--epochs"),
        (["compile", "a.onnx", "--target"], "--target"),
    ],
)
def test_wrong_arguments_are_named(
    words: list[str], named: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    code, out, err = run(words, monkeypatch, capsys)
    assert code == 2
    assert not out
    assert named in err.splitlines()[-1].lower()


def test_no_command_at_all_shows_the_help(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    code, out, err = run([], monkeypatch, capsys)
    assert code in (0, 2)  # typer's, of whatever release
    assert "compile" in out + err
    assert "Try " not in err


LONG = "n" * 300


@pytest.mark.parametrize(
    "words",
    [
        ["inspect", LONG],
        ["inspect", f"{LONG}.json"],
        ["inspect", f"{LONG}.safetensors"],
        ["report", LONG],
        ["compile", LONG],
        ["compile", f"{LONG}.onnx", "--emit", "c"],
        ["compile", "x.onnx", "-o", LONG],
        ["quantize", LONG, "--calibrate", "x.npy"],
        ["quantize", "x.onnx", "--calibrate", LONG],
        ["bench", LONG],
        ["study", *QUICK, "--out", LONG],
        ["study", f"{LONG}.py:task"],
    ],
    ids=lambda words: " ".join(words).replace(LONG, "LONG"),
)
def test_a_path_that_no_system_takes_is_one_error(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(words, monkeypatch, capsys)
    assert code in (1, 2)
    assert err.startswith("secateur: ")
    assert err.count("\n") == 1
    assert LONG in err
    assert not list(tmp_path.iterdir())


def test_a_warning_is_shown_and_not_obeyed(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    broken = study / "records" / "x[red]\x1b[2J.json"
    broken.write_text("{")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        code, _, err = run(["report", str(study)], monkeypatch, capsys)
    broken.unlink()
    assert code == 0
    assert r"x[red]\x1b[2J.json" in tame(err)


def secateur(*words: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "secateur", *words],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    )


def test_a_reader_that_leaves_ends_no_study(tmp_path: Path) -> None:
    with secateur("study", *QUICK, "--out", str(tmp_path / "study")) as job:
        assert job.stdout
        assert job.stderr
        assert job.stdout.readline().startswith("study ")
        job.stdout.close()
        assert "Traceback" not in job.stderr.read()
        assert job.wait(240) == 0
    assert (tmp_path / "study" / "report.html").is_file()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is full")
def test_a_full_disk_ends_no_study_but_is_told(tmp_path: Path) -> None:
    words = ["study", *QUICK, "--out", str(tmp_path / "study")]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "secateur", *words],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=240, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "study" / "report.html").is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({"PYTHONIOENCODING": "latin-1"}, marks=pytest.mark.long),
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_a_terminal_of_an_old_encoding_shows_a_whole_study(
    environment: dict[str, str], tmp_path: Path
) -> None:
    import pty

    ours, theirs = pty.openpty()
    words = ["study", *QUICK, "--out", "a[/b]"]
    with subprocess.Popen(
        [sys.executable, "-m", "secateur", *words],
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120", **environment},
        cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs,
    ) as job:  # fmt: skip
        os.close(theirs)
        output = b"".join(received(ours))
        assert job.wait(240) == 0, output.decode("latin-1")
    os.close(ours)
    assert b"Traceback" not in output
    assert b"the start, trained with all weights" in output
    assert b"\\u28" not in output  # a spinner of braille
    assert (tmp_path / "a[/b]" / "report.html").is_file()


def received(terminal: int) -> Iterator[bytes]:
    while True:
        try:
            content = os.read(terminal, 1 << 16)
        except OSError:  # the other end was closed
            return
        if not content:
            return
        yield content


def test_the_version_is_told_at_once() -> None:
    code = (
        "import sys; sys.argv = ['secateur', '--version']\n"
        "from secateur.cli import main\n"
        "try: main()\n"
        "finally: print({'torch', 'numpy', 'typer', 'rich'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "secateur 0.1.0\nset()\n"


def test_the_help_tells_of_the_version(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    assert "--version" in run(["--help"], monkeypatch, capsys)[1]


def test_a_saved_model_is_shown_whatever_its_tensors(tmp_path: Path) -> None:
    small = torch.tensor([0.5, 0, 0, 0]).to(torch.float8_e4m3fn)
    save({"small": small, "none": torch.zeros(0, 3)}, tmp_path / "x.safetensors")
    plain = Console(file=io.StringIO(), width=200, record=True)
    plain.print(inspection(tmp_path / "x.safetensors"))
    lines = {line.split()[1]: line.split() for line in plain.export_text().splitlines()[3:5]}
    assert {"4", "float8_e4m3fn", "25.0"} <= set(lines["small"])
    assert {"0×3", "float32", "-"} <= set(lines["none"])


def test_files_of_a_path_that_is_none_are_refused() -> None:
    for path in (None, 3, b"x", "a\0b"):
        with pytest.raises(UsageError, match="path"):
            read_info(path)  # type: ignore[arg-type]
