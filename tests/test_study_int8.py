"""A study of int8 files: what it measures is what it ships."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from secateur.compiler.pipeline import compile_network
from secateur.errors import UsageError
from secateur.files import read_json
from secateur.study import artifacts, matching
from secateur.study.results import Results, rebuild
from secateur.study.study import Study
from secateur.study.task import Task
from study_runs import record
from test_study_as_fast import found

pytestmark = [
    pytest.mark.usefixtures("undrawn"),
    pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler here"),
]

PLAN: dict[str, Any] = {
    "keep": (0.5, 0.2),
    "criteria": ("gate",),
    "seeds": 1,
    "epochs": 2,
    "gate_epochs": 1,
    "smaller": 0,
    "calibration": 128,
    "pattern": "dot4",
    "int8": True,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def study(digits: Task, tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Results]:
    made = Study(digits, out=tmp_path_factory.mktemp("study"), **PLAN)
    return made, made.run(workers=1)


def test_figures_are_those_of_the_file_that_is_shipped(study: tuple[Study, Results]) -> None:
    made, _ = study
    content = made.onnx(0.2)
    compiled = compile_network(content)
    assert compiled.integer == 3  # all its layers
    right = []
    with compiled.engine(1) as engine:
        for inputs, targets in made.task.data(torch.device("cpu")).evaluation("test"):
            right.append(torch.from_numpy(engine(inputs.numpy())).argmax(-1) == targets)
    found = record(made.directory, "seed-0_gate_keep-0.2_ladder")
    share = float(torch.cat(right).double().mean())
    assert found["metrics"]["test"] == pytest.approx(100 * share, rel=1e-12)
    assert found["int8"]["bytes"] == len(compiled.content)
    assert found["int8"]["in_float"] == {}


def test_only_what_is_cut_is_quantised(study: tuple[Study, Results]) -> None:
    made, results = study
    uncut = record(made.directory, "seed-0_uncut_keep-0.2_ladder")
    assert "int8" not in uncut
    assert all(row.over_float is None for row in results.summary.whole)
    for row in results.summary.rows:
        found = record(made.directory, f"seed-0_gate_keep-{row.keep:g}_ladder")
        lost = found["metrics"]["test"] - found["before_int8"]["test"]
        assert row.over_float is not None
        assert row.over_float.mean == pytest.approx(lost)


def test_a_dense_network_as_fast_is_an_int8_file_too(
    digits: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its artifact is compared with that of the cut one; one of as many weights stays float."""
    monkeypatch.setattr(matching, "match", lambda *_, int8, **__: found(int8=int8 is not None))
    plan = {**PLAN, "keep": (0.2,), "smaller": 0.2, "epochs": 1}
    made = Study(digits, out=tmp_path, **plan)
    made.run(workers=1)
    width = made.match()
    assert width is not None
    assert width.int8
    results = made.run(workers=1)
    fast = record(tmp_path, "seed-0_as-fast_keep-0.2_ladder")
    assert fast["int8"]["bytes"] > 0
    assert fast["before_int8"] != {}
    assert "int8" not in record(tmp_path, "seed-0_smaller_keep-0.2_ladder")
    (row,) = results.summary.of("as-fast", "ladder")
    assert row.over_float is not None
    page = results.files.html.read_text()
    assert "The smaller dense network that is as fast is measured as an int8 file, too." in page


def test_the_report_says_so(study: tuple[Study, Results]) -> None:
    made, results = study
    page = results.files.html.read_text()
    assert "int8 over fp32" in page
    assert "What is cut is measured as an int8 file; what is not, as it was trained." in page
    assert "over_float_mean" in results.files.csv.read_text().splitlines()[0]
    assert rebuild(made.directory).summary == results.summary


def test_other_studies_have_no_such_column(digits: Task, tmp_path: Path) -> None:
    plan = {**PLAN, "int8": False, "keep": (0.5,)}
    results = Study(digits, out=tmp_path / "study", **plan).run(workers=1)
    assert "int8 over fp32" not in results.files.html.read_text()
    assert "before_int8" not in read_json(
        tmp_path / "study" / "records" / "seed-0_gate_keep-0.5_ladder.json"
    )


def test_what_cannot_be_compiled_is_said_before_anything_is_trained(
    digits: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise UsageError("there is no C compiler")

    monkeypatch.setattr(artifacts, "running", refused)
    study = Study(digits, out=tmp_path / "study", **PLAN)
    with pytest.raises(UsageError, match="no C compiler"):
        study.run(workers=1)
    assert not list((tmp_path / "study").glob("records/*"))
