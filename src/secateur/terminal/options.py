"""Options of commands that need more than a type: made from fields, lists, shapes."""

from __future__ import annotations

import functools
import inspect as introspect
from collections.abc import Callable
from dataclasses import Field, fields
from typing import Annotated, Any, get_type_hints

import typer

from secateur.errors import UsageError
from secateur.study.options import Options


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one option per field of `Options`, with the field's help and default."""
    hints = get_type_hints(Options)

    def parameter(field: Field[Any]) -> introspect.Parameter:
        default: Any = field.default
        several = isinstance(default, tuple)
        if several:
            default = [",".join(map(str, default))]
        option = typer.Option(help=field.metadata["help"], metavar="<list>" if several else None)
        return introspect.Parameter(
            field.name,
            introspect.Parameter.KEYWORD_ONLY,
            default=default,
            # a list, so that --keep 0.5 --keep 0.1 is both, and not silently the last
            annotation=Annotated[list[str] if several else hints[field.name], option],
        )

    @functools.wraps(command)
    def wrapped(**arguments: Any) -> None:
        options = {}
        for field in fields(Options):
            value = arguments.pop(field.name)
            if isinstance(field.default, tuple):
                value = listed(field.name, ",".join(value), type(field.default[0]))
            options[field.name] = value
        command(options=Options(**options), **arguments)

    own = [
        p.replace(kind=introspect.Parameter.KEYWORD_ONLY)
        for p in introspect.signature(command, eval_str=True).parameters.values()
        if p.name != "options"
    ]
    wrapped.__signature__ = introspect.Signature(  # type: ignore[attr-defined]
        [*own, *map(parameter, fields(Options))]
    )
    return wrapped


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
