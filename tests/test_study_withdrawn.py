"""Options that studies had before: no fine-tuning is what there is now, and more is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from secateur import Study, Task
from secateur.errors import UsageError
from test_cli import QUICK, run

pytestmark = pytest.mark.usefixtures("undrawn")


def test_a_study_without_fine_tuning_is_what_it_was(digits: Task, tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match="finetune of a study goes with 0.3.0; leave it"):
        old = Study(digits, out=tmp_path, finetune=0, seeds=1)
    assert old.spec == Study(digits, out=tmp_path, seeds=1).spec


@pytest.mark.parametrize("given", [{"finetune": 2}, {"follow": 0.5}, {"finetune_from": 1.0}])
def test_fine_tuning_is_refused_with_what_there_is_instead(
    digits: Task, tmp_path: Path, given: dict[str, float]
) -> None:
    with pytest.raises(UsageError, match=f"no {next(iter(given))} any more: the ladder trains"):
        Study(digits, out=tmp_path / "study", **given)
    assert not (tmp_path / "study").exists()


def test_the_command_takes_the_old_option_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["study", *QUICK, "--out", str(tmp_path / "study")]
    code, out, err = run([*words, "--finetune", "1"], monkeypatch, capsys)
    assert (code, out) == (2, "")
    assert "the ladder trains" in err
    assert "finetune" not in run(["study", "--help"], monkeypatch, capsys)[1]
    code, _, err = run([*words, "--finetune", "0"], monkeypatch, capsys)
    assert code == 0, err
    assert "finetune of a study goes with 0.3.0" in err
