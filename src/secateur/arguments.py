"""What users give to public functions, looked at before any of it is used."""

from __future__ import annotations

import difflib
import inspect
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import wraps
from numbers import Real
from typing import Any, TypeGuard, TypeVar, cast

from secateur.errors import UsageError
from secateur.errors import whole as is_whole

Called = TypeVar("Called", bound=Callable[..., Any])

SYNONYMS = {
    **dict.fromkeys(("sparsity", "amount", "prune_ratio", "pruning_ratio"), "keep"),
    **dict.fromkeys(("ratio", "density", "keep_ratio"), "keep"),
    **dict.fromkeys(("lr", "learning_rate"), "rate"),
    **dict.fromkeys(("method", "importance", "score"), "criterion"),
    **dict.fromkeys(("inputs", "sample", "example_inputs", "sample_inputs"), "example"),
    **dict.fromkeys(("dataloader", "loader", "dataset"), "data"),
    **dict.fromkeys(("filename", "file", "output"), "path"),
}
"""What other libraries call an argument, and what it is called here."""
CUT = ("sparsity", "amount", "prune_ratio", "pruning_ratio")
"""Those that say what is cut, not what is kept."""
_OWN = ("self", "cls")
_LONGEST = 80  # characters of a value in a message
_NUMBER = re.compile(r"\b(int|float|bool)\b")  # in an annotation


def _as_given(value: Any) -> Any:
    return value


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an argument must be. Its default is fine in any case."""

    fine: Callable[[Any], bool]
    what: str
    taken: Callable[[Any], Any] = _as_given
    """Makes of what was given what the function is to have, before it is looked at."""


def plain(value: Any) -> Any:
    """Return a number or truth value of any library as Python's own, and others as they are.

    Numbers are those of numpy, tensors without dimensions, and whatever else counts as one in
    `numbers`. Python's own are written to JSON, and so hashed, in one way only.
    """
    if type(value) in (bool, int, float):
        return value
    if getattr(value, "ndim", None) == 0 and callable(getattr(value, "item", None)):
        try:
            value = value.item()
        except Exception:  # such as that of a tensor on the device meta
            return value
    try:
        if is_whole(value):
            return int(value)
        return float(value) if is_real(value) else value
    except (OverflowError, ValueError):
        return value


def all_plain(value: Any) -> Any:
    """Return nested dicts, lists and tuples with every number in them as `plain` has it."""
    if type(value) is dict:
        return {key: all_plain(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(all_plain, value))
    return plain(value)


def _texts(value: Any) -> Any:
    """Return an iterable of texts as a tuple, which can be read twice."""
    if not isinstance(value, Iterable):
        value = getattr(value, "names", value)  # of what `prunable` returns
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes)):
        return value
    texts = tuple(str(text) if isinstance(text, str) else text for text in value)
    unordered = isinstance(value, (set, frozenset)) and all(isinstance(t, str) for t in texts)
    return tuple(sorted(texts)) if unordered else texts


def is_real(value: object) -> TypeGuard[float]:
    """Return whether a value is a real number; True and False are not."""
    return isinstance(value, Real) and not isinstance(value, bool)


def a(kind: type | tuple[type, ...], what: str) -> Wanted:
    """Want a value of a type."""
    return Wanted(lambda value: isinstance(value, kind), what)


def between(low: float, high: float, what: str) -> Wanted:
    """Want a real number in [low, high]."""
    return Wanted(lambda v: is_real(v) and low <= float(v) <= high, what)


def whole(low: int, what: str) -> Wanted:
    """Want a whole number from `low` on."""
    return Wanted(lambda v: is_whole(v) and v >= low, what)


POSITIVE = Wanted(lambda v: is_real(v) and 0 < float(v) < float("inf"), "positive")
BOOL = a(bool, "True or False")
TEXT = a(str, "a text")
FUNCTION = Wanted(callable, "a function")
MAPPING = a(Mapping, "a dict")
NUMBER = Wanted(lambda v: is_real(v) and math.isfinite(v), "a number")
SEED = Wanted(is_whole, "a whole number")
PATH = Wanted(
    lambda v: isinstance(v, (str, os.PathLike)) and "\0" not in os.fsdecode(v),
    "a path: a text or a Path",
)
SOURCE = Wanted(
    lambda v: isinstance(v, bytes) or PATH.fine(v), "the path of a file, or its content"
)
TENSORS = Wanted(
    lambda v: not _holds_array(v),
    "made of torch tensors; torch.from_numpy makes one of an array",
)
TEXTS = Wanted(
    lambda v: isinstance(v, tuple) and all(isinstance(t, str) for t in v),
    "a list of texts",
    _texts,
)
GLOBS = replace(TEXTS, what="a list of globs")


def checked(**wanted: Wanted) -> Callable[[Called], Called]:
    """Let a function, or a class, refuse arguments that it does not have or that are of no use.

    What a call of Python's would end as TypeError, or somewhere inside with whatever comes of it,
    is then one UsageError that names the argument, its value and what it must be.

    Arguments that are annotated as numbers come in as Python's own numbers: see `plain`.

    Args:
        wanted: argument → what it must be; others are not looked at.
    """

    def change(called: Called) -> Called:
        if isinstance(called, type):
            called.__init__ = checked(**wanted)(called.__init__)  # type: ignore[misc]
            return cast(Called, called)
        signature = inspect.signature(called)
        known = signature.parameters
        numbers = {each for each, p in known.items() if _NUMBER.search(str(p.annotation))}
        name = called.__qualname__.removesuffix(".__init__")

        @wraps(called)
        def wrapped(*given: Any, **named: Any) -> Any:
            try:
                bound = signature.bind(*given, **named)
            except TypeError as error:
                for each, value in named.items():
                    if each not in known:
                        raise unknown(name, each, known, value) from None
                own = ", ".join(each for each in known if each not in _OWN)
                raise UsageError(f"{name}: {error}; its arguments are {own}") from None
            for each, value in bound.arguments.items():
                taken = all_plain(value) if each in numbers else value
                if each in wanted and value is not known[each].default:
                    taken = wanted[each].taken(taken)
                    refuse(each, taken, wanted[each])
                bound.arguments[each] = taken
            return called(*bound.args, **bound.kwargs)

        return cast(Called, wrapped)

    return change


def refuse(name: str, value: object, wanted: Wanted) -> None:
    """Refuse a value that is not as it must be.

    Raises:
        UsageError: names the argument, its value, and what it must be.
    """
    try:
        right = wanted.fine(value)
    except Exception:  # such as TypeError where a text is compared with a number
        right = False
    if not right:
        raise UsageError(f"{name} is {shown(value)}, but must be {wanted.what}")


def unknown(where: str, name: str, known: Iterable[str], value: object = None) -> UsageError:
    """Return the error for an argument that a function does not have, with the one meant."""
    names = [each for each in known if each not in _OWN]
    meant = SYNONYMS.get(name, "")
    if meant in names and name in CUT:
        cut = is_real(value) and 0 <= float(value) < 1
        share = f"{1 - float(value):g}" if is_real(value) and cut else "0.1 for a sparsity of 0.9"
        hint = f"say what is kept, not what is cut: keep={share}"
    elif near := [meant] if meant in names else difflib.get_close_matches(name, names, 1):
        hint = f"did you mean {near[0]!r}?"
    else:
        hint = f"the valid ones are {', '.join(names)}"
    return UsageError(f"{where} has no argument {name!r}; {hint}")


def _holds_array(value: object) -> bool:
    """Whether a value is an array of numpy's, or a tuple, list or dict that begins with one."""
    if isinstance(value, Mapping):
        return any(map(_holds_array, list(value.values())[:1]))
    if type(value) in (tuple, list):
        return any(map(_holds_array, cast(list[object], value)[:1]))
    return type(value).__module__ == "numpy"


def shown(value: object) -> str:
    """Return a value as a message shows it: short, and what it is where it is large."""
    plain = isinstance(value, (str, bytes, int, float, complex, type(None)))
    few = isinstance(value, (tuple, list, set, frozenset, dict)) and len(value) <= 4
    text = repr(value) if plain or few else ""
    if not text or (few and len(text) > _LONGEST):
        return f"of type {type(value).__name__}"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
