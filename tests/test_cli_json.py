"""With --json every command prints one object, the documented one, and nothing else."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import secateur
from secateur.cli import main
from secateur.compiler import artifact, pipeline, targets, toolchain
from secateur.compiler.kernels import Machine
from secateur.compiler.network import prepare
from secateur.errors import CompileError
from secateur.terminal import gains
from secateur.terminal.application import COMMANDS
from secateur.terminal.printing import show_json
from test_cli import QUICK, run

pytestmark = pytest.mark.usefixtures("undrawn")

PAGE = (Path(__file__).parent.parent / "docs" / "cli.md").read_text(encoding="utf-8")
HOSTILE = "a[/b]\x1b[2J\u202eb"


def documented(command: str) -> set[str]:
    """Return the entries that the page lists of a command: the first column of its first table."""
    section = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    (own,) = (s for s in section if s.startswith(f"secateur {command}\n"))
    table = own.partition("\n|---")[2].partition("\n\n")[0]
    first = re.findall(r"^\| ((?:`\w+`(?:, )?)+) ", table, flags=re.MULTILINE)
    return set(re.findall(r"`(\w+)`", " ".join(first)))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study, files of tensors, a network and samples for it."""
    folder = tmp_path_factory.mktemp("json")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    pruned, result = secateur.prune(model, 0.5)
    given = {HOSTILE: HOSTILE}
    secateur.save(
        pruned, folder / "model.safetensors", budget=result.budget, masks=result.masks,
        provenance=given,
    )  # fmt: skip
    result.masks.save(folder / "masks.safetensors")
    secateur.export_onnx(pruned, torch.zeros(1, 16), folder / "net.onnx")
    np.save(folder / "samples.npy", np.random.default_rng(0).random((40, 16), dtype=np.float32))
    return folder


def told(arguments: list[str], place: Path, *, code: int = 0) -> dict[str, Any]:
    """Run a command in the folder; return the one object that it prints."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(sys, "argv", ["secateur", *arguments, "--json"])
        patch.setattr(sys, "stdout", out := Written())
        with pytest.raises(SystemExit) as end:
            main()
    assert int(end.value.code or 0) == code
    text = "".join(out.texts)
    assert text.isascii()
    assert text.count("\n") == 1
    found: dict[str, Any] = json.loads(text, parse_constant=pytest.fail)
    return found


class Written:
    """A stream that keeps what it is given."""

    encoding, errors = "utf-8", "strict"

    def __init__(self) -> None:
        self.texts: list[str] = []

    def write(self, text: str) -> int:
        self.texts.append(text)
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return False


@pytest.fixture(scope="module")
def study(place: Path) -> dict[str, Any]:
    less = ["--criteria", "magnitude", "--workers", "1"]
    return told(["study", *QUICK, *less, "--out", "study"], place)


def test_studies_and_reports(place: Path, study: dict[str, Any]) -> None:
    assert study.keys() == documented("study")
    assert study["complete"] is True
    assert told(["report", "study"], place) == study


def test_verify(place: Path, study: dict[str, Any]) -> None:
    found = told(["verify", "study"], place)
    assert found.keys() == documented("verify")
    assert (found["whole"], found["kind"]) == (True, "study")
    (place / "study" / "results.csv").write_text("")
    found = told(["verify", "study"], place, code=1)
    assert [f["path"] for f in found["files"] if f["state"] == "damaged"] == ["results.csv"]


def test_inspect(place: Path, study: dict[str, Any]) -> None:
    target = targets.find("x86_64-v3")
    network = prepare(place / "net.onnx", Machine(target.lanes, target.registers))
    described = pipeline.source_of(network, HOSTILE).network
    (place / "net.so").write_bytes(artifact.pack(b"no library", target, described))
    pipeline.emit_c(place / "net.onnx", place / "c", target="aarch64-linux", prefix="my")
    record = "study/records/seed-0_start.json"
    found = {
        path: told(["inspect", path], place)
        for path in (
            "study",
            record,
            "model.safetensors",
            "masks.safetensors",
            "net.onnx",
            "net.so",
            "c",
        )
    }
    kinds = [each["kind"] for each in found.values()]
    assert kinds == ["study", "record", "model", "safetensors", "onnx", "engine", "c"]
    entries = set().union(*found.values())
    assert entries == {"kind", "path", *documented("inspect")}
    assert found["study"]["missing"] == []
    assert found[record]["record"]["stage"] == "start"
    assert found["model.safetensors"]["provenance"] == {HOSTILE: HOSTILE}
    assert found["model.safetensors"]["budget"]["keep"] == 0.5


def test_quantize_and_compile(place: Path) -> None:
    try:
        toolchain.native()
    except CompileError as error:
        pytest.skip(str(error))
    calibrate = ["--calibrate", "samples.npy"]
    made = told(["quantize", "net.onnx", *calibrate], place)
    assert made.keys() == documented("quantize")
    assert [layer["precision"] for layer in made["layers"]] == ["int8", "int8"]
    found = told(["compile", "net.onnx"], place)
    assert found.keys() == documented("compile")
    assert (place / found["path"]).stat().st_size == found["bytes"]
    found = told(["compile", "net.onnx", "--int8", *calibrate, "-o", "int8.so"], place)
    assert found["quantized"] == {key: made[key] for key in made if key != "path"}
    found = told(["compile", "net.onnx", "--emit", "c", "-o", "c"], place)
    assert found == {"kind": "c", "path": "c", "target": "native", "quantized": None}


def test_bench(place: Path) -> None:
    arguments = ["bench", "net.onnx", "--against", "", "--batch", "1", "--rounds", "2"]
    found = told(arguments, place)
    assert found.keys() == documented("bench")


def test_doctor(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gains, "measure", lambda: {"fp32 dot4": 7.0, "int8": 9.0})
    found = told(["doctor"], place)
    assert found.keys() == documented("doctor")
    assert found["checks"][-1]["figures"] == {"fp32 dot4": 7.0, "int8": 9.0}


def test_every_command_has_the_option_and_a_place_on_the_page() -> None:
    listed = set(re.findall(r"^## secateur (\w+)$", PAGE, flags=re.MULTILINE))
    assert listed == COMMANDS.keys() - {"report"}


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - {"study", "doctor"}))
def test_what_fails_prints_no_object(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("samples.npy", np.zeros((4, 2), np.float32))
    more = ["--calibrate", "samples.npy"] if command == "quantize" else []
    code, out, err = run([command, "nowhere.onnx", *more, "--json"], monkeypatch, capsys)
    assert code in (1, 2)
    assert (out, err.startswith("secateur: ")) == ("", True)


def test_numbers_that_are_not_finite_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    show_json({"a": [float("nan"), (float("inf"), 1.5)], "b": "\udcff"})
    assert capsys.readouterr().out == '{"a": [null, [null, 1.5]], "b": "\\udcff"}\n'
