"""The command line's entry: streams, errors, exit codes.

Exit codes: 0 done, 1 a failed or interrupted run, 2 bad usage.
"""

from __future__ import annotations

import sys
import warnings

from secateur import __version__
from secateur.errors import SecateurError, UsageError


def main() -> None:
    """Run the command line; turn errors into one line and an exit code."""
    if sys.argv[1:2] == ["--version"]:
        print(f"secateur {__version__}")
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
    from secateur.commands import app

    try:
        app()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except UsageError as error:
        _say(f"secateur: {error}")
        return 2
    except SecateurError as error:
        _say(f"secateur: {error}")
        return 1
    except OSError as error:  # of a path that the system cannot look at
        where = "" if error.filename is None else f"cannot use {error.filename}: "
        _say(f"secateur: {where}{error.strerror or error}; give another path")
        return 1
    except KeyboardInterrupt:
        _say("interrupted")
        return 1
    return 0


def _say(text: str) -> None:
    """Print a message on standard error, one line if it has one."""
    from secateur.console import Words, console

    console(stderr=True).print(Words(text, lines=True), soft_wrap=True)
