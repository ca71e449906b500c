"""What cannot be meant is refused by its name, before it takes memory or time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peak_memory import PEAK, needs_peak
from secateur import Recipe, Study, Task, bench
from secateur.data import Augmentation
from secateur.errors import UsageError
from secateur.study.options import Options


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 10**9}, r"seeds is 1000000000, but must be .* at most 10,000"),
        ({"seeds": 10**400}, r"seeds is 10+, but"),
        ({"seeds": 10_000}, r"too large: .*stages and trials.* at most 100,000"),
        ({"keep": tuple(1 - i / 10**6 for i in range(2000))}, r"2,000 keep ratios.* 1,000"),
        ({"epochs": 10**12}, r"epochs is 10+, but .* at most 1,000,000"),
        ({"gate_epochs": 10**12}, r"gate_epochs is 10+, but .* at most 1,000,000"),
        ({"first_seed": 10**12}, r"first_seed is 10+, but .* to 1,000,000,000"),
        ({"batch_size": 10**12}, r"batch_size is 10+, but .* at most 1,000,000,000"),
        ({"calibration": 10**12}, r"calibration is 10+, but .* at most 1,000,000,000"),
        ({"calibration": 128.5}, r"calibration is 128\.5, but"),
        ({"reconstruct": 10**12}, r"reconstruct is 10+, but .* at most 1,000,000,000"),
        ({"reconstruct": 64.5}, r"reconstruct is 64\.5, but"),
        ({"criterion_images": 10**12}, r"criterion_images is 10+, but"),
        ({"criterion_images": True}, r"criterion_images is True, but"),
    ],
)
def test_options_of_a_study(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Options(**changes)


def test_a_study_of_ten_thousand_items_is_not_refused() -> None:
    assert Options(seeds=1000, keep=(0.5,), criteria=("magnitude",)).seeds == 1000


@needs_peak
def test_memory_is_not_taken_first() -> None:
    code = PEAK + (
        "from secateur.errors import UsageError\n"
        "from secateur.study.options import Options\n"
        "Options()  # loads what it checks with\n"
        "before = peak()\n"
        "try: Options(seeds=10**9)\n"
        "except UsageError: pass\n"
        "print(peak() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 10_000  # KiB


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recipe(10**12), "epochs is 10+, but"),
        (lambda: Recipe(1, batch_size=10**12), "batch_size is 10+, but"),
        (lambda: Augmentation(pad=10**12), "pad=10+.* from 0 to 65,536"),
        (lambda: Augmentation(cutout=1.5), r"cutout=1\.5.* whole"),
        (lambda: Augmentation(pad="2"), "pad='2'"),
    ],
)
def test_values_of_other_parts(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batches": (10**12,)}, r"batch sizes .* at most 1,000,000, got \[10+\]"),
        ({"rounds": 10**12}, r"at most 10,000, .* got 10+ of"),
        ({"seconds": 10**12}, r"at most 600 seconds"),
        ({"seconds": float("nan")}, r"of nan s"),
        ({"threads": 10**12}, r"10+ threads"),
    ],
)
def test_arguments_of_bench(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    model = tmp_path / "net.onnx"
    model.touch()
    with pytest.raises(UsageError, match=message):
        bench.run(model, "", **arguments)


@pytest.mark.parametrize("description", [{"a": "\ud800"}, {"a": 10**400}, {"a": float("inf")}])
def test_a_description_that_could_not_be_read_back(digits: Task, description: Any) -> None:
    deep: Any = []
    for _ in range(2000):
        deep = [deep]
    for each in (description, {"a": deep}):
        task = Task("t", digits.model, digits.data, digits.loss, digits.metric, each)
        with pytest.raises(UsageError, match="description of task 't' is not JSON"):
            Study(task, margin=0.5)
