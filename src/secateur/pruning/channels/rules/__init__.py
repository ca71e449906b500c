"""What an ATen operator does to labels: one rule per family of operators.

A rule is told of a call whose tensors have labels, and says which labels its outputs have, which
are tied, and which must stay. An operator without a rule lets every channel stay that reaches it.
"""

from __future__ import annotations

from typing import Any

import torch

from secateur.pruning.channels.rules import channelwise, contraction, movement, pointwise
from secateur.pruning.channels.tracing import Rule

RULES: dict[str, Rule] = {**contraction.RULES, **movement.RULES, **channelwise.RULES}
"""Operators by name; beside them there are those on planes, and all pointwise ones."""


OTHER_FORMS = {("view", "dtype"), ("max", "other"), ("min", "other")}
"""Operators that are something else than their name's rule is for."""


def find(func: Any, name: str) -> Rule | None:
    """Return the rule of an operator, or None."""
    if name in RULES and (name, func._overloadname) not in OTHER_FORMS:
        return RULES[name]
    if channelwise.PLANES.fullmatch(name):
        return channelwise.spatial
    if torch.Tag.pointwise in func.tags or name in pointwise.NAMES:
        return pointwise.pointwise
    return None
