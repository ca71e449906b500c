"""The house holds: imports run one way, names are public on purpose, files have one subject."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import secateur

SOURCE = Path(secateur.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))

# What each part may import from secateur. A part is the longest prefix that matches.
VALUES = {"cores", "errors", "files", "inputs", "machine", "modes", "printable"}
MAY_IMPORT = {
    "errors": set[str](),
    "cores": {"errors"},
    "files": {"errors"},
    "machine": {"errors", ""},
    "inputs": {"errors"},
    "modes": set[str](),
    "printable": set[str](),
    "pruning": VALUES | {"pruning", "training"},
    "integrations": VALUES | {"pruning", "integrations"},
    "hub": VALUES | {"pruning"},
    "counting": VALUES,
    "oneshot": VALUES | {"pruning", "counting", "compiler", "oneshot"},
    "training": VALUES,
    "distillation": VALUES | {"training"},
    "measure": VALUES,
    "semi_structured": VALUES | {"pruning", "measure"},
    "nets": VALUES | {"nets"},
    "data": VALUES | {"data"},
    "export": VALUES,
    "compiler": {"errors", "files", "printable", "compiler", "export", ""},
    "bench": VALUES | {"bench", "compiler"},
    "study": VALUES
    | {"pruning", "training", "distillation", "measure", "nets", "data", "study", "export"},
    "inspection": VALUES | {"study", "pruning"},
    "doctor": VALUES | {"data", "nets", ""},
    "cli": VALUES | {"study", "inspection", "doctor", "compiler", "bench"},
    "__main__": {"cli"},
    "": {
        "compiler",
        "data",
        "distillation",
        "errors",
        "export",
        "hub",
        "oneshot",
        "pruning",
        "semi_structured",
        "study",
        "training",
    },
}


def module_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("secateur").lstrip(".") for name in found if is_ours(name)}


def is_ours(name: str) -> bool:
    return name == "secateur" or name.startswith("secateur.")


def test_imports_run_one_way() -> None:
    wrong = []
    for path in FILES:
        part = module_of(path).split(".")[0]
        for imported in imports_of(path):
            if (target := imported.split(".")[0]) in MAY_IMPORT and target not in MAY_IMPORT[part]:
                wrong.append(f"{module_of(path)} imports {imported}")
    assert not wrong


def test_every_part_is_covered() -> None:
    assert {module_of(path).split(".")[0] for path in FILES} == set(MAY_IMPORT)


def test_no_file_has_two_subjects() -> None:
    long = [str(p.relative_to(SOURCE)) for p in FILES if len(p.read_text().splitlines()) > 420]
    assert not long
    assert not [p for p in FILES if p.stem in ("utils", "helpers", "common", "misc")]


def test_public_names_are_sorted_and_importable() -> None:
    assert sorted(secateur.__all__) == secateur.__all__
    for name in secateur.__all__:
        assert getattr(secateur, name) is not None
    assert set(secateur.__all__) <= set(dir(secateur))


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, secateur, secateur.errors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
