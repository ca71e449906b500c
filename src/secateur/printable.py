"""Text of others, made fit for a terminal: nothing in it moves a cursor, hides or reorders text."""

from __future__ import annotations


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
