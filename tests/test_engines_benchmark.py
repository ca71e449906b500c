"""What benchmarks/engines.py makes of records; nothing is measured."""

from __future__ import annotations

import csv
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from bench_cases import result, timing

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def record(folder: Path, *timings: Any, old: bool = False) -> None:
    content = {"net": "mlp", "sparsity": 0.9, "values": "fp32"}
    content |= json.loads(result(*timings).json())
    if old:  # 0.1.0 did not say
        for row in content["timings"]:
            del row["precision"]
    (folder / "mlp-0.9-fp32.json").write_text(json.dumps(content))


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("engines")


def test_tables_tell_precisions_apart(
    engines: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(
        tmp_path,
        timing("secateur", 1, 1.0, 1.0),
        timing("onnxruntime", 1, 4.0, 4.0),
        timing("openvino-f32", 1, 3.0, 3.0),
        timing("openvino", 1, 2.0, 2.0, precision="bf16", difference=0.01),
        timing("onnxruntime-int8", 1, 0.5, 0.5, precision="int8 (QDQ)", difference=0.1),
        timing("deepsparse", 1, 5.0, 5.0),
    )
    assert engines.main([str(tmp_path), "--report"]) == 1  # most goals have no record
    said = capsys.readouterr().out
    assert "| × best dense engine in f32 | × best dense engine at any precision | × deepsp" in said
    assert "3.00 (3.00–3.00) | 0.50 (0.50–0.50) | 5.00 (5.00–5.00) |" in said
    assert "openvino 1.0 (bf16)" in said
    assert "met: mlp, 90 %: outputs within 0.0001 of every engine's in f32; 0.0e+00" in said
    with (tmp_path / "engines.csv").open() as file:
        rows = {row["engine"]: row["precision"] for row in csv.DictReader(file)}
    assert rows["openvino"] == "bf16"
    assert rows["onnxruntime-int8"] == "int8 (QDQ)"


def test_older_records_were_all_in_float32(
    engines: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(tmp_path, timing("secateur", 1, 1.0), timing("openvino", 1, 3.0), old=True)
    engines.main([str(tmp_path), "--report"])
    assert "3.00 (3.00–3.00) | 3.00 (3.00–3.00) | - |" in capsys.readouterr().out
