"""What all commands share: the application, where it prints, and how a task is named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.status import Status

from secateur.console import Words, console, spinner
from secateur.errors import UsageError

if TYPE_CHECKING:
    from secateur.study.task import Task

app = typer.Typer(
    name="secateur",
    help="Train once, prune to any ratio, with proof, and ship it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = console()
err = console(stderr=True)


@app.callback()
def _options_of_all(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    pass  # `cli.main` answers --version, without importing what commands need


def say(text: str) -> None:
    """Print a line on standard output."""
    out.print(Words(text), soft_wrap=True)


def warn(text: str) -> None:
    """Print lines on standard error."""
    err.print(Words(text, lines=True), soft_wrap=True)


def working(text: str) -> Status:
    """Show what is going on while a block runs."""
    return err.status(Words(text), spinner=spinner(err))


def chosen(reference: str | None, built_in: dict[str, Any]) -> Task:
    """Return the user's own task, or the built-in one that the given options name."""
    from secateur.study.loading import load_task
    from secateur.study.task import classification

    if reference is None:
        return classification(**built_in)
    if built_in:
        given = ", ".join("--" + name.replace("_", "-") for name in built_in)
        raise UsageError(
            f"{given} belong to a built-in task, and {reference!r} is one of your own with its own "
            "data and network; leave out one or the other"
        )
    return load_task(reference)
