"""Where commands print, and how."""

from __future__ import annotations

from rich.status import Status

from secateur.console import Words, console, spinner

out = console()
err = console(stderr=True)


def say(text: str) -> None:
    """Print a line on standard output."""
    out.print(Words(text), soft_wrap=True)


def warn(text: str) -> None:
    """Print lines on standard error."""
    err.print(Words(text, lines=True), soft_wrap=True)


def working(text: str) -> Status:
    """Show what is going on while a block runs."""
    return err.status(Words(text), spinner=spinner(err))
