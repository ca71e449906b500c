"""Where commands print, and how."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

from rich.status import Status

from secateur.console import Words, console, spinner

out = console()
err = console(stderr=True)


def say(text: str) -> None:
    """Print a line on standard output."""
    out.print(Words(text), soft_wrap=True)


def show_json(document: dict[str, Any]) -> None:
    """Print one JSON object in one line of ASCII; a number that is not finite is null there."""
    print(json.dumps(_finite(document), allow_nan=False))


def show(document: dict[str, Any], lines: Iterable[str], *, json_: bool) -> None:
    """Print a result, as JSON or as lines."""
    if json_:
        show_json(document)
    for line in () if json_ else lines:
        say(line)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def warn(text: str) -> None:
    """Print lines on standard error."""
    err.print(Words(text, lines=True), soft_wrap=True)


def working(text: str) -> Status:
    """Show what is going on while a block runs."""
    return err.status(Words(text), spinner=spinner(err))
