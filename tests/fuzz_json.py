"""JSON whose values are changed, not its bytes alone, for the readers that are fuzzed."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import random
from typing import Any

VALUES: list[Any] = [
    *(None, True, "", "0", "a[/b]\x1b[2J", "../x", "x" * 300, "\udcff", [], {}, [[]], {"": None}),
    *(0, -1, 1, 2**31, 2**63, -(2**63), 10**400, 0.0, -0.5, 1e-320, 1e308, math.nan, math.inf),
]
"""What values of JSON are changed to."""


def changed(content: bytes, draw: random.Random) -> bytes | None:
    """Return JSON with a value of it changed, left out, or put in another's place; None of none."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    places: list[tuple[Any, Any]] = []
    waiting = [value] if isinstance(value, (dict, list)) else []
    while waiting:
        inner = waiting.pop()
        keys = inner.keys() if isinstance(inner, dict) else range(len(inner))
        places += [(inner, key) for key in keys]
        waiting += [inner[key] for key in keys if isinstance(inner[key], (dict, list))]
    if not places:
        return None
    for _ in range(draw.choice([1, 1, 2, 4])):
        inner, key = draw.choice(places)
        other, at = draw.choice(places)
        with contextlib.suppress(LookupError, TypeError):  # of what was changed before
            action = draw.random()
            if action < 0.2:
                del inner[key]
            elif action < 0.4:
                inner[key] = copy.deepcopy(other[at])
            else:
                inner[key] = copy.deepcopy(draw.choice(VALUES))
    with contextlib.suppress(ValueError, RecursionError):
        return json.dumps(value).encode()
    return None
