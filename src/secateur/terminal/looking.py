"""The commands that look at files and at the machine: arguments only."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from secateur.console import Words
from secateur.terminal.options import Json
from secateur.terminal.printing import out, show, show_json, working


def inspect(
    path: Annotated[
        Path,
        typer.Argument(
            help="An ONNX file, an engine, a folder of C, a study directory, a record, or a "
            "safetensors file."
        ),
    ],
    json_: Json = False,
) -> None:
    """Show what a network's file, a study directory, a record, a checkpoint or masks hold."""
    from secateur.terminal import inspection

    if json_:
        show_json(inspection.document(path))
    else:
        out.print(inspection.inspection(path))


def verify(
    path: Annotated[
        Path,
        typer.Argument(
            help="A study directory, a folder of C, a folder that save_pretrained wrote, a record, "
            "a safetensors file or an engine."
        ),
    ],
    json_: Json = False,
) -> None:
    """Check files against the hashes that they were written with; exit code 1 if one is damaged."""
    from secateur.terminal.verification import verify as verified

    found = verified(path)
    show(found.document(), found.lines(), json_=json_)
    if not found.whole:
        raise typer.Exit(1)


def doctor(json_: Json = False) -> None:
    """Say what this machine can do: cores, bf16, CUDA, compiler, data, which zeros pay.

    The last is measured, in some seconds.
    """
    from rich.table import Table

    from secateur.terminal import gains
    from secateur.terminal.doctor import examine

    with working("measuring which zeros pay here"):
        checks = (*examine(), gains.said())
    if json_:
        show_json({"checks": [asdict(check) for check in checks]})
        return
    view = Table("", "check", "found", "hint", box=None)
    for check in checks:
        mark = {True: Words("ok", "green"), False: Words("no", "red"), None: Words("-")}[check.ok]
        view.add_row(mark, check.name, Words(check.value), Words(check.hint))
    out.print(view)
