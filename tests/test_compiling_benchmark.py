"""benchmarks/compiling.py: a network's phases add up, and what takes longer than it may is told."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
from torch import nn

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("compiling")


def test_phases_add_up(
    compiling: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny = compiling.Net(lambda _: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), (3, 6, 6))
    monkeypatch.setattr(compiling, "NETS", {"tiny": tiny})
    given = [str(tmp_path), "--sparsities", "0"]
    assert compiling.main([*given, "--limit", "0"]) == 1
    assert compiling.main([*given, "--limit", "900"]) == 0
    rows = re.findall(r"^\| tiny-0 \|(.*)\|$", capsys.readouterr().out, re.MULTILINE)
    assert len(rows) == 2
    for row in rows:
        *phases, total = map(float, row.split("|"))
        assert len(phases) == len(compiling.PHASES)
        assert sum(phases) == pytest.approx(total, abs=0.1 * len(phases))
    assert compiling.verification.truth.__name__ == "truth"  # as it was
