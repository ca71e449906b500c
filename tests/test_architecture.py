"""The house holds: imports run one way, names are public on purpose, files have one subject."""

from __future__ import annotations

import ast
import graphlib
import importlib
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

import secateur

SOURCE = Path(secateur.__file__).parent

VALUES = {"arguments", "errors", "files", "machine", "model", "version"}
MAY_IMPORT: dict[str, set[str]] = {
    "arguments": {"errors"},
    "bench": VALUES | {"compiler", "console"},
    "cli": {"console", "errors", "terminal", "version"},
    "compiler": (VALUES - {"machine", "model"}) | {"export"},
    "console": {"errors"},
    "data": VALUES | {"console"},
    "distillation": VALUES | {"training"},
    "errors": set(),
    "export": VALUES | {"onnx_outputs"},
    "files": {"errors"},
    "integrations": VALUES | {"pruning"},
    "machine": {"errors", "version"},
    "measure": VALUES | {"compiler", "export", "quantization"},
    "model": {"arguments", "errors"},
    "nets": VALUES,
    "onecall": VALUES | {"measure", "pruning"},
    "onnx_outputs": {"errors"},
    "pruning": VALUES | {"training"},
    "pruning.selecting": VALUES,
    "pruning.smaller": VALUES | {"measure.gpu", "pruning"},
    "quantization": VALUES | {"compiler", "export"},
    "study": VALUES
    | {"console", "data", "distillation", "export", "measure", "nets", "pruning", "training"},
    "study.artifacts": VALUES | {"compiler", "export", "quantization", "training"},
    "study.matching": VALUES | {"bench", "compiler", "export", "study", "training"},
    "study.shipping": VALUES | {"bench", "compiler", "export", "study", "training"},
    "terminal": VALUES
    | {"bench", "compiler", "console", "data", "nets", "pruning", "quantization", "study"},
    "training": VALUES,
    "version": set(),
}
"""What each part may import, beside itself. The longest name that fits a file counts."""


def module_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


FILES = {module_of(path): path for path in sorted(SOURCE.rglob("*.py"))}


def imports_of(code: str, modules: Iterable[str]) -> set[str]:
    """Return the modules of secateur that a file imports, anywhere in it; "" is the root."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports name their module in full"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name.removeprefix("secateur.") in modules else str(node.module))
    ours = {name for name in found if name == "secateur" or name.startswith("secateur.")}
    return {name.removeprefix("secateur").removeprefix(".") for name in ours}


GRAPH = {name: imports_of(path.read_text(), FILES) for name, path in FILES.items()}


def within(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def wrong_imports(graph: dict[str, set[str]]) -> list[str]:
    wrong = []
    for name, imported in graph.items():
        if name in ("", "__main__"):
            continue
        part = max((part for part in MAY_IMPORT if within(name, part)), key=len)
        allowed = {part} | MAY_IMPORT[part]
        wrong += [
            f"{name} imports {other or 'the package root'}"
            for other in imported
            if not any(within(other, may) for may in allowed)
        ]
    return wrong


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return a circle of each folder whose files and folders import each other in one."""
    found = []
    folders = {name.rpartition(".")[0] for name in graph}
    for folder in sorted(folders | {""}):
        start = f"{folder}." if folder else ""
        level: dict[str, set[str]] = {}
        for name, imported in graph.items():
            if name and name.startswith(start):
                child = name.removeprefix(start).partition(".")[0]
                others = {
                    other.removeprefix(start).partition(".")[0]
                    for other in imported
                    if other and other.startswith(start)
                }
                level.setdefault(child, set()).update(others - {child})
        try:
            graphlib.TopologicalSorter(level).prepare()
        except graphlib.CycleError as error:
            found.append([folder, *error.args[1]])
    return found


def test_imports_run_one_way() -> None:
    assert not wrong_imports(GRAPH)


def test_no_files_and_no_folders_import_each_other_in_a_circle() -> None:
    try:
        graphlib.TopologicalSorter(GRAPH).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"files import each other: {error.args[1]}")
    assert not circles(GRAPH)


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("from secateur import Budget", "compiler.graph imports the package root"),
        ("import secateur", "compiler.graph imports the package root"),
        ("def f():\n    from secateur.pruning.selecting import masks", "imports pruning.selecting"),
        ("import secateur.study.spec as spec", "compiler.graph imports study.spec"),
    ],
)
def test_a_wrong_import_is_found(code: str, fault: str) -> None:
    found = wrong_imports(GRAPH | {"compiler.graph": imports_of(code, FILES)})
    assert len(found) == 1
    assert fault in found[0]


def test_a_circle_is_found() -> None:
    back = {"pruning.selecting.masks": {"pruning.gates.gates"}}
    assert any("selecting" in circle for circle in circles(GRAPH | back))


def test_every_part_is_covered() -> None:
    parts = {name.split(".")[0] for name in FILES} - {"", "__main__"}
    assert parts == {part.split(".")[0] for part in MAY_IMPORT}


def test_no_file_has_two_subjects() -> None:
    lines = {name: len(path.read_text().splitlines()) for name, path in FILES.items()}
    assert not {name: count for name, count in lines.items() if count > 420}
    assert not [p for p in FILES.values() if p.stem in ("utils", "helpers", "common", "misc")]


def test_public_names_are_sorted_and_importable() -> None:
    assert sorted(secateur.__all__) == secateur.__all__
    for name in secateur.__all__:
        assert getattr(secateur, name) is not None
    assert set(secateur.__all__) <= set(dir(secateur))


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, secateur, secateur.errors, secateur.files; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


OUTSIDE = sorted(
    path
    for folder in ("benchmarks", "examples")
    for path in (Path(__file__).parent.parent / folder).glob("*.py")
)


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: path.name)
def test_what_benchmarks_and_examples_import_is_there(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "secateur":
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                full = f"{node.module}.{alias.name}".removeprefix("secateur.")
                assert full in FILES or hasattr(module, alias.name), f"{path.name}: {full}"
