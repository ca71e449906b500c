"""What the tests of running studies share."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

PASSING = ("seconds", "started", "sha256", "work")
"""What a record says that differs each time."""


def record(directory: Path, item: str) -> dict[str, Any]:
    """Return the record of an item."""
    found: dict[str, Any] = json.loads((directory / "records" / f"{item}.json").read_text())
    return found


def numbers(directory: Path) -> dict[str, Any]:
    """Return everything in a study's records that must not depend on how it was run."""
    found = {}
    for path in sorted((directory / "records").glob("*.json")):
        each = record(directory, path.stem)
        for entry in each.get("log", ()):
            entry.pop("seconds")
        found[path.stem] = {key: value for key, value in each.items() if key not in PASSING}
    return found


def copy_study(source: Path, target: Path) -> None:
    """Copy a study's directory, without its lock."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(".lock"), dirs_exist_ok=True)
