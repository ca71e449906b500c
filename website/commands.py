"""The command line with all its commands, for typer to document."""

from secateur.terminal.application import whole

__all__ = ["app"]

app = whole()
