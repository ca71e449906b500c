"""Every recipe of CONTRIBUTING.md works: its file alone, in a copy of the package."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

import forked
import secateur

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
FILES = dict(re.findall(r"```python\n# src/(secateur/\S+\.py)\n(.*?)```", PAGE, re.S))

MODEL = (
    "import torch, secateur; model = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in 'ab'))"
)
RECIPES = {
    "criteria/relative.py": (
        f"{MODEL}; found = secateur.prune(model, 0.25, criterion='relative')[1]; "
        "assert found.masks.kept == 16 and found.criterion == 'relative'",
        ["test_criteria.py::test_every_criterion_gives_scores_that_can_be_selected[relative]"],
    ),
    "data/stripes.py": (
        "import secateur; task = secateur.classification('stripes', 'mlp'); "
        "study = secateur.Study(task, keep=(0.5,), seeds=1, epochs=4, gate_epochs=1, "
        "calibration=64, criteria=('magnitude',), device='cpu'); "
        "assert study.run().summary.start.test.mean > 80",
        [],
    ),
    "patterns/row.py": (
        f"{MODEL}; found = secateur.prune(model, 0.25, pattern='row')[1]; "
        "assert found.masks['1.weight'].all(1).sum() == 2 == found.masks['1.weight'].any(1).sum(); "
        "assert secateur.GatePhase(pattern='row').budget(0.5).pattern.unit == 'rows'",
        [
            "test_patterns.py::test_a_pattern_is_its_name[row]",
            "test_patterns.py::test_a_pattern_counts_what_it_keeps[row]",
        ],
    ),
    "rewrites/determinant.py": (
        "import numpy, onnx; from onnx import helper; from secateur.compiler.pipeline import "
        "compile_network; x = helper.make_tensor_value_info('x', 1, ['n', 2, 2]); "
        "y = helper.make_tensor_value_info('y', 1, ['n']); "
        "graph = helper.make_graph([helper.make_node('Det', ['x'], ['y'])], 'g', [x], [y]); "
        "model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)]); "
        "engine = compile_network(model.SerializeToString()).engine(); "
        "x = numpy.random.default_rng(0).standard_normal((20, 2, 2)).astype('f4'); "
        "assert abs(engine(x) - numpy.linalg.det(x)).max() < 1e-5",
        ["test_backend_reference.py::test_operator_passes_its_cases[Det]"],
    ),
    "charts/bytes.py": (
        "import secateur; task = secateur.classification('digits', 'mlp'); "
        "results = secateur.Study(task, keep=(0.5, 0.1), seeds=1, epochs=1, gate_epochs=1, "
        "calibration=64, criteria=('magnitude',), device='cpu').run(); "
        "assert 'id=\"chart-bytes\"' in results.files.html.read_text(); "
        "assert '<svg' in (results.directory / 'bytes.svg').read_text(); "
        "assert (results.directory / 'bytes.png').exists()",
        [],
    ),
    "tracking/lines.py": (
        "import secateur; from secateur.study.tracking.observer import Tracking; "
        "study = secateur.Study(secateur.classification('digits', 'mlp'), keep=(0.5,), seeds=1, "
        "epochs=1, gate_epochs=1, calibration=64, criteria=('magnitude',), device='cpu')\n"
        "tracking = Tracking(study, ['lines'])\n"
        "with tracking: tracking.results(study.run(tracking))\n"
        "lines = (study.directory / 'figures.txt').read_text().splitlines(); "
        "assert any(line.startswith('seed 0/magnitude ladder/test\\t500\\t') for line in lines)",
        [],
    ),
    "engines/onnx.py": (
        "import torch, secateur; from pathlib import Path; from secateur import bench; "
        "secateur.export_onnx(torch.nn.Linear(8, 4), torch.zeros(1, 8), 'm.onnx'); "
        "found = bench.run(Path('m.onnx'), 'onnx', batches=(1,), threads=1, rounds=2, seconds=0.01)"
        "; assert [t.engine for t in found.timings] == ['secateur', 'onnx']; "
        "assert found.timings[1].difference < 1e-5",
        ["test_environments.py::test_every_peer_is_whole[onnx]"],
    ),
}
"""The end of a recipe's file → code that uses it, and the tests of its kind that pick it up."""


def test_every_recipe_is_tried() -> None:
    assert len(FILES) == len(RECIPES)
    assert all(any(path.endswith(end) for end in RECIPES) for path in FILES)


@pytest.mark.parametrize("end", RECIPES)
def test_a_recipe_adds_one_file_that_works(end: str, tmp_path: Path) -> None:
    (path,) = (path for path in FILES if path.endswith(end))
    source = Path(secateur.__file__).parent
    shutil.copytree(source, tmp_path / "secateur", ignore=shutil.ignore_patterns("__pycache__"))
    assert not (tmp_path / path).exists()
    (tmp_path / path).write_text(FILES[path])
    code, tests = RECIPES[end]
    check = f"import secateur; assert secateur.__file__.startswith({str(tmp_path)!r}); {code}"
    run = [["-W", "error", "-c", check]]
    if tests:
        found = [str(ROOT / "tests" / test) for test in tests]
        run.append(["-m", "pytest", "-o", f"cache_dir={tmp_path}", *found])
    for arguments in run:  # both find what is in the current folder first
        done = forked.run(*arguments, folder=tmp_path)
        assert done.status == 0, done.out + done.err
