"""The command line's entry: streams, errors, exit codes.

Exit codes: 0 done, 1 a failed or interrupted run, or something damaged that `verify` found, 2 bad
usage.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

from secateur.errors import SecateurError, UsageError
from secateur.version import VERSION

_CTRL_C = 130
"""What newer releases of typer return for Ctrl-C."""


def main() -> None:
    """Run the command line; turn errors into one line and an exit code."""
    if sys.argv[1:2] == ["--version"]:
        print(f"secateur {VERSION}")
        raise SystemExit(0)
    from secateur.console import streams

    with streams() as kept, warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: _say(f"warning: {message}")
        code = _run()
    for stream in kept:
        # A reader that left has what it wanted. Anything else is a loss.
        if stream.lost is not None and not isinstance(stream.lost, BrokenPipeError):
            reason = stream.lost.strerror or stream.lost
            if sys.stderr is not None:
                print(f"secateur: cannot write {stream.name}: {reason}", file=sys.stderr)
            code = code or 1
    raise SystemExit(code)


def _run() -> int:
    import typer

    from secateur.terminal.application import application

    try:
        code = application()(standalone_mode=False)  # or typer prints what it refuses, as it is
        if code == _CTRL_C:
            raise KeyboardInterrupt
    except _refusals() as error:
        _explain(error)
        return 2
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except SecateurError as error:
        _say(f"secateur: {error}")
        return 2 if isinstance(error, UsageError) else 1
    except OSError as error:  # of a path that the system cannot look at
        where = "" if error.filename is None else f"cannot use {error.filename}: "
        _say(f"secateur: {where}{error.strerror or error}; give another path")
        return 1
    except (KeyboardInterrupt, typer.Abort):  # older releases make the one of the other
        _say("interrupted")
        return 1
    return code if isinstance(code, int) else 0


def _refusals() -> type[Exception]:
    """Return what all errors of typer are, in every release that secateur takes."""
    import typer

    (error,) = (kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
    return error


def _explain(error: Any) -> None:
    """Print how a command is used, and what typer refuses of its arguments."""
    message = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":  # typer has printed the help
        return
    context = getattr(error, "ctx", None)
    if context is not None:
        usage = " ".join(context.get_usage().split())
        _say(f"{usage}\nTry `{context.command_path} --help`.")
    _say(f"secateur: {message}", lines=False)


def _say(text: str, *, lines: bool = True) -> None:
    """Print a message on standard error; without `lines` its line ends are not ours."""
    from secateur.console import Words, console

    console(stderr=True).print(Words(text, lines=lines), soft_wrap=True)
