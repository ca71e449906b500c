"""What of a study was logged where, so that a study that goes on logs nothing twice.

A line is added to `tracking.jsonl` once what it says is safe: first the run that a tracker made,
then each item that was logged to it.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

from secateur.files import parse_json
from secateur.study.reading import LEDGER

_LARGEST = 64 << 20  # bytes


class Ledger:
    """The file of a study; threads may share it."""

    def __init__(self, directory: Path) -> None:
        self._path, self._lock = directory / LEDGER, threading.Lock()

    def before(self, tracker: str) -> tuple[str | None, set[str]]:
        """Return the run that a tracker made last, and what was logged to it."""
        run, logged = None, set[str]()
        for line in self._lines():
            if line.get("tracker") == tracker:
                if isinstance(line.get("run"), str):
                    run, logged = line["run"], set()
                elif isinstance(line.get("logged"), str):
                    logged.add(line["logged"])
        return run, logged

    def add(self, tracker: str, **entry: str) -> None:
        """Add a line.

        Raises:
            OSError: it cannot be written.
        """
        text = json.dumps({"tracker": tracker, **entry}).encode() + b"\n"
        with self._lock, self._path.open("a+b") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # half a line; what is added must be one of its own
                    text = b"\n" + text
            file.write(text)

    def _lines(self) -> list[dict[str, Any]]:
        found = []
        try:
            with self._path.open("rb") as file:
                content = file.read(_LARGEST)
        except OSError:
            return []
        for line in content.split(b"\n"):
            try:  # the last one may be half a line, of a run that was killed
                value = parse_json(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                found.append(value)
        return found
