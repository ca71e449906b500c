"""The command line with all its commands, for typer to document."""

from secateur.terminal import commands, engines, quantizing  # noqa: F401  each adds its own
from secateur.terminal.application import app

__all__ = ["app"]
