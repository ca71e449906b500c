"""What ATen operators do to labels: one rule per family of operators.

A rule takes a call whose tensors have labels. It gives labels to the outputs, ties labels that go
together, and blocks those that must stay. Channels that reach an operator without a rule stay.
"""

from __future__ import annotations

from typing import Any

import torch

from secateur.pruning.channels.rules import channelwise, contraction, movement, pointwise
from secateur.pruning.channels.tracing import Rule

RULES: dict[str, Rule] = {
    **contraction.RULES,
    **movement.RULES,
    **channelwise.RULES,
    "copy": pointwise.assigned,
}
"""Rules by name; operators on planes and pointwise operators have theirs too (see `find`)."""


OTHER_FORMS = {("view", "dtype"), ("max", "other"), ("min", "other")}
"""Overloads, (name, overload), to which the rule of their name does not apply."""


def find(func: Any, name: str) -> Rule | None:
    """Return the rule of an operator, or None."""
    if name in RULES and (name, func._overloadname) not in OTHER_FORMS:
        return RULES[name]
    if channelwise.PLANES.fullmatch(name):
        return channelwise.spatial
    if torch.Tag.pointwise in func.tags or name in pointwise.NAMES:
        return pointwise.pointwise
    return None
