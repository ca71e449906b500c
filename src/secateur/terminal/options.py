"""Options of commands that need more than a type: lists, shapes, tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateur.errors import UsageError

if TYPE_CHECKING:
    from secateur.study.task import Task

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object (docs/cli.md), and nothing else.")
]
"""The option of every command that prints results."""


def listed(name: str, text: str, kind: type) -> tuple[Any, ...]:
    """Return the values of an option that takes several, with commas between them.

    Raises:
        UsageError: one is not of the kind.
    """
    try:
        return tuple(kind(part.strip()) for part in text.split(",") if part.strip())
    except ValueError:
        raise UsageError(
            f"--{name.replace('_', '-')} takes values with commas between them, got {text!r}"
        ) from None


def shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Return the name and the extents of `--input-shape`.

    Raises:
        UsageError: the text is not one.
    """
    name, _, extents = text.rpartition("=")
    try:
        return name, tuple(int(extent) for extent in extents.split(","))
    except ValueError:
        name = ""
    raise UsageError(f"--input-shape is NAME=1,3,32,32, not {text!r}")


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
