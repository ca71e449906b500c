"""What shapes a mask may have: each module but `pattern` is one, and a new pattern is a new file.

The module's subclass of `Pattern` says how it is written, what it ranks and counts, and how a mask
follows from what is kept; selection, gates, studies and files ask it, and know none by name.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from secateur.errors import BudgetError
from secateur.pruning.selecting.patterns.pattern import Pattern

__all__ = ["PATTERNS", "Pattern", "parse"]


def _kind(name: str) -> type[Pattern]:
    module = import_module(f"{__name__}.{name}")
    (kind,) = (k for k in Pattern.__subclasses__() if k.__module__ == module.__name__)
    return kind


_OTHERS = {"pattern", "weight"}
PATTERNS: dict[str, type[Pattern]] = {
    name: _kind(name)
    for name in ["weight", *sorted({module.name for module in iter_modules(__path__)} - _OTHERS)]
}
"""Every kind of pattern, by the name of its module."""


def parse(text: str) -> Pattern:
    """Return the pattern that a text names.

    Args:
        text: such as "weight", "2:4", "1x4", "dot4" or "channel"; a pattern is returned as it is.

    Raises:
        BudgetError: it names none; says what is wrong and what it may be.
    """
    if isinstance(text, Pattern):
        return text
    if isinstance(text, str):
        for kind in PATTERNS.values():
            if (found := kind.parse(text)) is not None:
                return found
    *forms, last = (kind.FORM for kind in PATTERNS.values())
    raise BudgetError(f"pattern is {text!r}; it must be {', '.join(forms)} or {last}")
