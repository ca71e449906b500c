"""Every example, and every Python block of README and docs, runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import forked

ROOT = Path(__file__).parent.parent
# those of other people's loops are run by test_integrations.py
EXAMPLES = sorted((ROOT / "examples").glob("*_task.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.S))
]


def run(arguments: list[str], folder: Path) -> str:
    program = forked.run("-W", "error", *arguments, folder=folder)
    assert program.status == 0, program.err
    return program.out


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_examples_run(example: Path, tmp_path: Path) -> None:
    assert "report:" in run([str(example)], tmp_path)


def test_the_notebook_runs(tmp_path: Path) -> None:
    cells = json.loads((ROOT / "examples" / "start.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    out = run(["-c", "\n".join(["import matplotlib; matplotlib.use('agg')", *code])], tmp_path)
    assert re.search(r"in fours \d\d\.\d %, as the file \d\d\.\d %", out)


@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_run(block: str, tmp_path: Path) -> None:
    run(["-c", block], tmp_path)
