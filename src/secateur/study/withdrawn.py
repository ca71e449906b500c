"""Options that studies of 0.1.0 had; all of this goes with 0.3.0."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from secateur.errors import UsageError

_INSTEAD = (
    "the ladder trains what is cut, in place of fine-tuning: give --gate-epochs (gate_epochs) for "
    "longer, and --ladder-from 1 (ladder_from=1.0) for all cuts"
)
WITHDRAWN = ("finetune", "finetune_from", "follow")


def _deprecated(text: str) -> None:
    warnings.warn(text, DeprecationWarning, stacklevel=5)


def without_withdrawn(
    changes: dict[str, Any], tell: Callable[[str], object] = _deprecated
) -> dict[str, Any]:
    """Return options without those of 0.1.0, which say nothing where there is no fine-tuning.

    Args:
        changes: option → value.
        tell: what was left out is told to it; by default a DeprecationWarning, for Python code.

    Raises:
        UsageError: fine-tuning is asked for; says what there is instead.
    """
    found = [name for name in WITHDRAWN if name in changes]
    if not found:
        return changes
    if changes.get("finetune", 1):
        raise UsageError(f"a study has no {found[0]} any more: {_INSTEAD}")
    tell(f"{', '.join(found)} of a study goes with 0.3.0; leave it out: {_INSTEAD}")
    return {name: value for name, value in changes.items() if name not in found}
