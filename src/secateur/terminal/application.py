"""The application: what commands there are. The code of a command is imported once it is used.

So `secateur --help` and the completion of a shell answer at once, and never load torch.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

COMMANDS = {
    "study": (
        "secateur.terminal.commands:study",
        "Train, cut at every keep ratio with several seeds, compare, certify, and write a report.",
    ),
    "report": (
        "secateur.terminal.commands:report",
        "Rebuild a study's report, curve and table from its records alone.",
    ),
    "compile": (
        "secateur.terminal.engines:compile_",
        "Compile a pruned network to a library, or to C, that skips the zeros.",
    ),
    "quantize": (
        "secateur.terminal.quantizing:quantize",
        "Quantise a network after training: int8 weights, 8-bit values, a QDQ ONNX file.",
    ),
    "bench": (
        "secateur.terminal.engines:bench",
        "Measure a network on secateur and on other engines, side by side.",
    ),
    "inspect": (
        "secateur.terminal.looking:inspect",
        "Show what a network's file, a study directory, a record, a checkpoint or masks hold.",
    ),
    "verify": (
        "secateur.terminal.looking:verify",
        "Check files against the hashes that they were written with; exit code 1 if one is "
        "damaged.",
    ),
    "doctor": (
        "secateur.terminal.looking:doctor",
        "Say what this machine can do: cores, bf16, CUDA, compiler, data, which zeros pay.",
    ),
}
"""Name → where its function is, MODULE:FUNCTION, and the first line of what that says."""


class Command(TyperCommand):
    """A command that is imported when it is given arguments; until then it has its first line."""

    def __init__(self, name: str, home: str, summary: str) -> None:
        super().__init__(name, help=summary)
        self._home = home

    def make_context(self, *arguments: Any, **extra: Any) -> Any:
        """Return a context of the command itself, which runs, and explains itself."""
        alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        alone.command(self.name)(_function(self._home))
        return typer.main.get_command(alone).make_context(*arguments, **extra)


def application() -> TyperGroup:
    """Return the application; call it with `standalone_mode=False`."""
    group = typer.main.get_command(_without_commands())
    assert isinstance(group, TyperGroup)
    for name, (home, summary) in COMMANDS.items():
        group.add_command(Command(name, home, summary))
    return group


def whole() -> typer.Typer:
    """Return the application with every command imported, for typer to document."""
    app = _without_commands()
    for name, (home, _) in COMMANDS.items():
        app.command(name)(_function(home))
    return app


def _without_commands() -> typer.Typer:
    app = typer.Typer(
        name="secateur",
        help="Train once, prune to any ratio, with proof, and ship it.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    app.callback()(_options_of_all)
    return app


def _function(home: str) -> Callable[..., Any]:
    module, _, function = home.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), function)
    return found


def _options_of_all(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    pass  # `cli.main` answers --version, without importing what commands need
