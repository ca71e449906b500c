from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

import secateur
from secateur.cli import main
from secateur.study.options import Options

pytestmark = pytest.mark.usefixtures("undrawn")

SHORT = ["--data", "digits", "--net", "mlp", "--seeds", "1", "--epochs", "1"]
SHORT += ["--gate-epochs", "1", "--calibration", "64", "--device", "cpu"]
SHORT += ["--workers", "1"]  # others take seconds to import torch
QUICK = [*SHORT, "--keep", "0.5", "--no-measure"]
"""Measuring has its own tests, in test_study_shipping.py."""


def run(
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["secateur", *arguments])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as end:
        main()
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


@pytest.mark.parametrize(
    "command", ["study", "report", "inspect", "compile", "quantize", "bench", "doctor"]
)
def test_every_command_explains_itself(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run([command, "--help"], monkeypatch, capsys)
    assert code == 0
    assert "Usage" in out


def test_the_help_shows_every_option_of_a_study(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = run(["study", "--help"], monkeypatch, capsys)
    for name in Options.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in out


def test_a_study_prints_its_table_and_where_the_report_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out_dir = tmp_path / "study"
    monkeypatch.setattr(
        "secateur.terminal.doctor.crowded", lambda device: f"no room on the {device}"
    )
    command = ["study", *QUICK, "--workers", "2", "--out", str(out_dir)]
    code, out, err = run(command, monkeypatch, capsys)
    assert code == 0, err
    assert err == "warning: no room on the cpu\n"
    assert "gate ladder, the primary sequence" in out
    assert re.search(r"50 %\s+\d\d\.\d\d", out.replace("│", " "))
    assert "3 exploratory rows" in out  # which --all would show
    assert "magnitude" not in re.sub(r"(?s)^.*primary sequence", "", out)
    assert "seeds" in out  # one seed cannot be certified, and it says so
    assert str(out_dir / "report.html") in out

    code, out, _ = run(["report", str(out_dir), "--all"], monkeypatch, capsys)
    assert code == 0
    assert re.search(r"gate\s+ladder\s+50 %\s+\d\d\.\d\d", out.replace("│", " "))
    assert re.search(r"magnitude\s+batchnorm\s+50 %\s+\d\d\.\d\d", out.replace("│", " "))

    code, out, _ = run(["inspect", str(out_dir)], monkeypatch, capsys)
    assert code == 0
    assert "0 missing" in out
    assert "first layer" in out

    checkpoint = out_dir / "checkpoints" / "seed-0_gate_rung-0.5.safetensors"
    code, out, _ = run(["inspect", str(checkpoint)], monkeypatch, capsys)
    assert code == 0
    assert "weight_gate" in out

    record = out_dir / "records" / "seed-0_start_keep-1_batchnorm.json"
    code, out, _ = run(["inspect", str(record)], monkeypatch, capsys)
    assert code == 0
    assert '"criterion": "start"' in out


def test_a_list_may_be_given_with_commas_or_option_by_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out_dir = tmp_path / "study"
    wanted = {"seed-0_gate_keep-0.5_ladder.json", "seed-0_gate_keep-0.1_ladder.json"}
    found = []
    for keeps in (["0.5,0.1"], ["0.5", "0.1"]):
        given = [part for keep in keeps for part in ("--keep", keep)]
        command = ["study", *SHORT, *given, "--criteria", "gate", "--no-measure"]
        code, out, _ = run([*command, "--out", str(out_dir)], monkeypatch, capsys)
        assert code == 0
        records = {path.name: path.stat().st_mtime_ns for path in (out_dir / "records").iterdir()}
        assert wanted <= records.keys()
        found.append((re.search(r"study (\w{12})", out)[1], records))
    assert found[0] == found[1]  # one and the same study, which was done


def test_doctor_says_what_the_machine_can_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("secateur.terminal.gains.measure", lambda: {"fp32 dot4": 7, "int8": 9})
    code, out, _ = run(["doctor"], monkeypatch, capsys)
    assert code == 0
    for word in (
        *("python", "torch", "cores", "bf16", "CUDA", "compiler", "cache", "CIFAR-10"),
        *("fp32: dot4 7 ×", "int8: no zeros 9 ×", "fastest: --int8"),
    ):
        assert word.lower().replace(" ", "") in "".join(out.lower().split())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["study", *QUICK, "--net", "alexnet"], 2, "'alexnet'.*convnet"),
        (["study", *QUICK, "--net", "vgg16"], 2, "too small"),
        (["study", *QUICK, "--data", "mnist"], 2, "'mnist'.*cifar10.*digits"),
        (["study", *QUICK, "--criteria", "size"], 2, "'size'.*gate.*magnitude.*random"),
        (["study", *QUICK, "--keep", "0.5,2"], 2, r"\(0, 1\]"),
        (["study", *QUICK, "--keep", "half"], 2, "takes values with commas"),
        (["study", *QUICK, "--keep", "0.1,0.5"], 2, "must fall"),
        (["study", *QUICK, "--seeds", "0"], 2, "seeds is 0"),
        (["study", *QUICK, "--seeds", "x"], 2, "--seeds"),
        (["study", *QUICK, "--device", "cuda:99"], 2, "cuda"),
        (["study", *QUICK, "--label-smoothing", "1"], 2, "label_smoothing"),
        (["study", *QUICK, "--calibration", "0"], 2, "calibration is 0"),
        (["study", *SHORT, "--price", "-1"], 2, "--price is -1"),
        (["study", *SHORT, "--price", "nan"], 2, "--price is nan"),
        (["study", *QUICK, "--price", "1"], 2, "leave out --no-measure or --price"),
        (["study", *SHORT, "--keep", "0.9"], 2, "gates would learn nothing.*ladder_from"),
        (["study", *QUICK, "--primary", "gate/batchnorm"], 2, "must be one of gate/ladder"),
        (["study", *QUICK, "--finetune", "1"], 2, "the ladder trains what is cut"),
        (["report", "nowhere"], 1, "holds no study"),
        (["report", __file__], 1, "holds no study"),
        (["inspect", "."], 2, "no spec.json or bundle.json, so it is no study and no folder of C"),
        (["inspect", "nowhere"], 1, "cannot inspect nowhere: there is no such file"),
        (["prune"], 2, "No such command"),
    ],
)
def test_bad_usage_gets_one_clear_error_and_leaves_nothing(
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    got, _, err = run(arguments, monkeypatch, capsys)
    assert got == code
    assert re.search(message, err)
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_inspecting_a_saved_model_shows_its_tensors_and_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(30, 20), torch.nn.Linear(20, 10))
    pruned, result = secateur.prune(model, 0.1)
    path = tmp_path / "model.safetensors"
    secateur.save(pruned, path, masks=result.masks, budget=result.budget)
    code, out, _ = run(["inspect", str(path)], monkeypatch, capsys)
    assert code == 0
    assert re.search(r"1\.weight.*10×20.*float32.*10\.0 %", out)
    assert "budget: keep 0.1, scope global" in out


def test_inspecting_a_damaged_file_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\x10\0\0\0\0\0\0\0{")
    code, _, err = run(["inspect", str(broken)], monkeypatch, capsys)
    assert code == 1
    assert "cannot read" in err


def test_an_interrupted_command_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("secateur.terminal.inspection.inspection", stopped)
    code, _, err = run(["inspect", str(tmp_path)], monkeypatch, capsys)
    assert code == 1
    assert err.strip() == "interrupted"
