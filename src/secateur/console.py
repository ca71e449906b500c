"""Terminals and pipes: any text, in any encoding, for as long as somebody reads it.

Text of a file, a path or an exception is shown as it is: never read as markup, its control
characters escaped, and what an encoding lacks spelt in ASCII.
"""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TextIO, cast

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

from secateur.errors import printable

SPELT = {
    "−": "-",
    "–": "-",
    "—": "-",
    "±": "+/-",
    "×": "x",
    "…": "...",
    "→": "->",
    "≤": "<=",
    "≥": ">=",
    "\u00a0": " ",
    "⁶": "^6",
    "∂": "d",
}
"""Characters of ours that not every encoding has, and how they are spelt in ASCII."""

_ERRORS = "secateur.spelt"


def console(*, stderr: bool = False) -> Console:
    """Return a console that reads nothing as markup, emoji names or values to colour."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def spinner(of: Console) -> str:
    """Return the name of a spinner that a console can show."""
    return "dots" if of.encoding.startswith("utf") else "line"


@dataclass(frozen=True, slots=True)
class Words:
    """Text of any origin, to print or to put into a table.

    It is laid out as it is shown, so that columns stay in line in any encoding.
    """

    text: str
    style: str = ""
    lines: bool = False
    """Whether line ends are ours: they are kept then, and not shown as `\\n`."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._shown(options)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self._shown(options))

    def _shown(self, options: ConsoleOptions) -> Text:
        lines = self.text.split("\n") if self.lines else [self.text]
        shown = "\n".join(spelt(line, options.encoding) for line in lines)
        return Text(shown, style=self.style)


def spelt(line: str, encoding: str) -> str:
    """Return a line as a stream of an encoding can show it."""
    # A space that does not break is one of ours, between a number and its unit.
    shown = "\u00a0".join(map(printable, line.split("\u00a0")))
    return shown.encode(encoding, _ERRORS).decode(encoding)


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    known = (SPELT.get(c) or c.encode("ascii", "backslashreplace").decode() for c in lacking)
    return "".join(known), error.end


codecs.register_error(_ERRORS, _spell)


class Stream:
    """A standard stream whose failure ends nothing: what cannot be written is dropped.

    A reader that leaves (`| head`), a terminal that is gone or a full disk would otherwise end a
    study that has run for hours.
    """

    lost: OSError | None = None
    """The first failure; nothing is written after it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text, or drop it."""
        if self.lost is None:
            try:
                return self._stream.write(text)
            except OSError as error:
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        """Pass on what was written, or drop it."""
        if self.lost is None:
            try:
                self._stream.flush()
            except OSError as error:
                self._lose(error)

    def _lose(self, error: OSError) -> None:
        self.lost = error
        # What the stream still holds is written once more when Python ends: into nothing.
        with suppress(OSError, ValueError), open(os.devnull, "wb") as nothing:  # noqa: PTH123
            os.dup2(nothing.fileno(), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def streams() -> Iterator[list[Stream]]:
    """Let standard output and error take any text and survive their readers; yields both."""
    before = sys.stdout, sys.stderr
    given = [stream for stream in before if stream is not None]  # pythonw has none
    errors = [stream.errors for stream in given]
    kept = [Stream(stream) for stream in given]
    for stream in given:
        _reconfigure(stream, _ERRORS)
    wrapped = {id(stream): cast(TextIO, keep) for stream, keep in zip(given, kept, strict=True)}
    sys.stdout, sys.stderr = (wrapped.get(id(stream), stream) for stream in before)
    try:
        yield kept
    finally:
        for keep in kept:
            keep.flush()
        sys.stdout, sys.stderr = before
        for stream, error in zip(given, errors, strict=True):
            _reconfigure(stream, error)


def _reconfigure(stream: TextIO, errors: str | None) -> None:
    with suppress(AttributeError, OSError, ValueError):  # a StringIO has no encoding
        stream.reconfigure(errors=errors)  # type: ignore[attr-defined]
