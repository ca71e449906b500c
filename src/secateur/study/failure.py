"""What an exception says of itself, whatever it is: in one line, and with its traceback."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from secateur.errors import SecateurError, UsageError, printable

_LINE = 600  # characters
_TRACE = 10_000
_OTHERS = (str(Path(__file__).parent.parent), sysconfig.get_path("stdlib"), "<")


def told(error: BaseException) -> str:
    """Return an exception as one line of at most 600 characters that any terminal can print.

    A `SecateurError` says what it has to say; any other exception is named, and the line of the
    user's own code that it came from.
    """
    try:
        text = " ".join(str(error).split())
    except Exception:  # it is a user's own
        text = "(its message cannot be shown)"
    if not isinstance(error, SecateurError):
        kind = type(error).__name__
        text = f"{kind}: {text}" if text else kind
        try:
            place = _place(error)
        except Exception:  # its frames may be of code that no file has, or its attributes hostile
            place = ""
        text = f"{_cut(text, _LINE - len(place))}{place}"
    return printable(_cut(text, _LINE))


@contextmanager
def said(what: str) -> Iterator[None]:
    """Turn an exception of the user's own code into one clear UsageError."""
    try:
        yield
    except SecateurError:
        raise
    except Exception as error:
        raise UsageError(f"{what}: {told(error)}") from error


def trace(error: BaseException) -> str:
    """Return the traceback of an exception as text, beginning and end where it is long."""
    try:
        text = "".join(traceback.format_exception(error))
    except Exception:  # a hostile attribute of a user's own exception
        text = "".join(traceback.format_tb(error.__traceback__)) + told(error)
    if len(text) > 2 * _TRACE:
        text = f"{text[:_TRACE]}\n...\n{text[-_TRACE:]}"
    return text.encode(errors="backslashreplace").decode()


def _place(error: BaseException) -> str:
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(_OTHERS) and "site-packages" not in frame.filename
    ]
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: max(most - 1, 0)] + "…"
