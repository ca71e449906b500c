"""benchmarks/faults.py tells what a study came through from what it lost."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import fault_kinds  # noqa: E402
from fault_kinds import DAMAGES, Undisturbed  # noqa: E402
from fault_runs import Ended  # noqa: E402

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmark reads /proc")


def test_every_damage_changes_a_file() -> None:
    draw = random.Random(0)
    content = b"".join(b"line %d\n" % number for number in range(1000))
    damaged = [how(content, b"neighbour", draw) for how in DAMAGES.values()]
    assert len(DAMAGES) + len(fault_kinds.PLACES) == 16
    assert content not in damaged
    assert len(set(damaged)) == len(damaged)


@pytest.mark.parametrize(
    ("code", "said", "refused"),
    [
        (0, "", False),
        (1, "warning: x\nsecateur: y is damaged; put it back\n", True),
        (1, "Traceback (most recent call last):\nsecateur: x\n", False),
        (1, "", False),
        (-9, "secateur: x\n", False),
    ],
)
def test_a_refusal_is_one_message(code: int, said: str, refused: bool) -> None:
    assert Ended(code, said).refused is refused


def test_what_changed_is_told(tmp_path: Path) -> None:
    for name in ("records", "checkpoints"):
        (tmp_path / name).mkdir()
    (tmp_path / "records" / "a.json").write_text('{"metric": 1.5, "seconds": 3}')
    (tmp_path / "checkpoints" / "a.safetensors").write_bytes(b"abc")
    (tmp_path / "results.csv").write_text("1.5\n")
    like = Undisturbed(tmp_path, fault_kinds.numbers(tmp_path), 1.0)
    (tmp_path / "records" / "a.json").write_text('{"metric": 1.5, "seconds": 4}')
    assert like.differs(tmp_path) == ""
    (tmp_path / "records" / "a.json").write_text('{"metric": 1.6, "seconds": 3}')
    (tmp_path / "results.csv").unlink()
    assert like.differs(tmp_path) == "changed or lost: a, results.csv"


@pytest.mark.long
def test_a_study_comes_through_some_of_each_kind() -> None:
    command = [sys.executable, "benchmarks/faults.py", "--few", "damage", "twice", "kill-1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "0 of 47 faults lost or changed a number" in done.stdout
