"""What can go wrong. Every message says what was wrong, where, and what to do.

`UsageError` means that the request was wrong (exit code 2 on the command line);
every other `SecateurError` means that a right request failed (exit code 1).
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any


class SecateurError(Exception):
    """Base of every error that secateur raises on purpose.

    Its text may go to any terminal or log, whatever file, path or name it quotes: what is not
    printable is shown escaped. `args` has the message as it was given.
    """

    def __str__(self) -> str:
        return "\n".join(map(printable, super().__str__().split("\n")))


class UsageError(SecateurError, ValueError):
    """An invalid argument or name, or arguments that do not go together."""


class UnknownNameError(UsageError, KeyError):
    """A name that a mapping does not have."""


class BudgetError(UsageError):
    """A budget that no mask of this model can meet."""


class ScoreError(SecateurError):
    """Scores that cannot be ranked: NaN, infinite, or not shaped as the parameters."""


class DataError(SecateurError):
    """A data set that could not be found, fetched or believed."""


class TrainingError(SecateurError):
    """A training that cannot go on, for example because its gradient is not finite."""


class FileError(SecateurError):
    """A file that is missing, truncated, corrupt, or cannot be written."""


class StudyError(SecateurError):
    """A study directory that belongs to another spec, is in use, or lacks records."""


class CompileError(SecateurError):
    """A network that cannot be compiled, or an engine that cannot be built or run here."""


def refuse_wrong(holder: object, *fields: tuple[str, Callable[[Any], bool], str]) -> None:
    """Refuse the first field that is not as it must be, or of a kind that cannot be so.

    Args:
        holder: what has the fields.
        fields: (name, whether a value is fine, what it must be).

    Raises:
        UsageError: names the field, its value, and what it must be.
    """
    for name, fine, want in fields:
        value = getattr(holder, name)
        try:
            right = fine(value)
        except TypeError:  # such as a text where a number is compared
            right = False
        if not right:
            raise UsageError(f"{name} is {value!r}, but must be {want}")


def whole(value: object) -> bool:
    """Return whether a value is a whole number, of Python or another library; not True or False."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def printable(text: str) -> str:
    r"""Return a text with every character that is not printable shown as Python escapes it.

    Control characters (line ends and tabs, too), marks that are invisible or turn the direction of
    writing, separators other than the space, lone surrogates and characters without a meaning
    become `\n`, `\x1b`, `\u202e`, ...; all else stays, letters of any script and emoji included.
    The result is one line that any UTF-8 stream takes. Markup is the printer's business: give rich
    a `Text`, or escape it.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )
