"""What an install brings: every package that the code imports, from versions that are tried."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

import secateur

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CALLED = {"PIL": "pillow", "ml_dtypes": "onnx"}
"""Modules of packages with another name, or of a package that always comes with another."""

EXTRAS = {
    "accelerate": "integrations/",
    "huggingface_hub": "hub.py",
    "lightning": "integrations/",
    "onnxruntime": "bench/",
    "openvino": "bench/",
    "deepsparse": "bench/",
    "pytorch_lightning": "integrations/",
    "ray": "study/executors/",
    "transformers": "integrations/",
}
"""Packages that only some users need, and the one place that may import each."""


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def bounds() -> dict[str, str]:
    found = (re.fullmatch(r"([\w-]+)>=([\d.]+)", text) for text in PROJECT["dependencies"])
    return {match[1]: match[2] for match in found if match}


def imported() -> set[tuple[str, str]]:
    """Return every (package, file) of an import of another project, wherever it stands."""
    source = Path(secateur.__file__).parent
    found = set()
    for path in source.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in names:
                top = name.partition(".")[0]
                if top not in sys.stdlib_module_names and top != "secateur":
                    found.add((CALLED.get(top, top), path.relative_to(source).as_posix()))
    return found


def test_what_is_imported_comes_with_the_base_install_or_has_one_place() -> None:
    wrong = [
        (package, path)
        for package, path in imported()
        if package not in bounds() and not path.startswith(EXTRAS.get(package, "nowhere"))
    ]
    assert not wrong


def test_every_dependency_is_used_and_has_a_lower_bound_and_both_pins() -> None:
    assert len(bounds()) == len(PROJECT["dependencies"])
    assert set(bounds()) == {package for package, _ in imported()} - set(EXTRAS)
    lowest, tested = pins("constraints-lowest.txt"), pins("constraints.txt")
    for name, bound in bounds().items():
        assert f"{lowest[name]}.".startswith(f"{bound}."), name
        assert name in tested


@pytest.mark.parametrize("extra", ["compile", "cross", "lightning", "transformers", "hub", "ray"])
def test_extras_that_were_documented_can_still_be_asked_for(extra: str) -> None:
    assert extra in PROJECT["optional-dependencies"]


def test_first_lines_of_the_readme_say_how_to_install() -> None:
    first = (ROOT / "README.md").read_text().split("\n\n")[:4]
    assert "pip install ." in "\n".join(first)
