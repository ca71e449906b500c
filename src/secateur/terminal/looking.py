"""The commands that look at files and at the machine: arguments only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secateur.console import Words
from secateur.terminal.printing import out, working


def inspect(
    path: Annotated[
        Path, typer.Argument(help="A study directory, a record, or a safetensors file.")
    ],
) -> None:
    """Show what a study directory, a record, a checkpoint or a masks file holds."""
    from secateur.terminal.inspection import inspection

    out.print(inspection(path))


def doctor() -> None:
    """Say what this machine can do: cores, bf16, CUDA, compiler, data, which zeros pay.

    The last is measured, in some seconds.
    """
    from rich.table import Table

    from secateur.terminal import gains
    from secateur.terminal.doctor import examine

    with working("measuring which zeros pay here"):
        checks = (*examine(), gains.said())
    view = Table("", "check", "found", "hint", box=None)
    for check in checks:
        mark = {True: Words("ok", "green"), False: Words("no", "red"), None: Words("-")}[check.ok]
        view.add_row(mark, check.name, Words(check.value), Words(check.hint))
    out.print(view)
