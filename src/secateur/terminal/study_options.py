"""The options of `secateur study` that are made from the fields of `Options`."""

from __future__ import annotations

import functools
import inspect as introspect
from collections.abc import Callable
from dataclasses import Field, fields
from typing import Annotated, Any, get_type_hints

import typer

from secateur.study.options import Options
from secateur.terminal.options import listed


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
