"""Keeps what the C compiler makes, for tests that compile the same thing again.

Every engine brings the same runtime, and many tests, and most runs of them, the same network.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path

from secateur.compiler.toolchain import _Runner

DAYS = 7
"""How long what is not asked for is kept."""
LARGEST = 2**22
"""Bytes of a file that is kept."""


class CompilerCache:
    """Runs the C compiler in the place of `_Runner`, unless it has run on the same before."""

    def __init__(self, folder: Path, run: Callable[[_Runner, Sequence[str]], str]) -> None:
        self.folder, self.run = folder, run
        for kept in folder.iterdir():
            if time.time() - kept.stat().st_mtime > DAYS * 24 * 3600:
                kept.unlink(missing_ok=True)  # of two processes the other may be first

    def __call__(self, runner: _Runner, arguments: Sequence[str]) -> str:
        if "-o" not in arguments:  # what is asked for is what the compiler says
            return self.run(runner, arguments)
        made = runner.folder / arguments[arguments.index("-o") + 1]
        kept = self.folder / key(runner, arguments)
        try:
            made.write_bytes(kept.read_bytes())
        except FileNotFoundError:
            said = self.run(runner, [*arguments, *self._intrinsics(runner, arguments)])
            if made.exists() and made.stat().st_size <= LARGEST:
                beside = kept.with_suffix(f".{os.getpid()}.{made.name}")
                beside.write_bytes(made.read_bytes())
                beside.replace(kept)
            return said
        made.chmod(0o755)
        os.utime(kept)
        return ""

    def _intrinsics(self, runner: _Runner, arguments: Sequence[str]) -> Sequence[str]:
        """Return an option that includes the header of x86's vectors, compiled once.

        To read it takes a compiler longer than most of our networks.
        """
        flags = arguments[: arguments.index("-c")] if "-c" in arguments else []
        version = _version(runner.command, *flags)
        if b"__AVX2__" not in version or b"__clang__" in version:
            return ()
        header = self.folder / f"{sha256(version + repr(flags).encode()).hexdigest()}.h"
        compiled = header.with_suffix(".h.gch")
        if not compiled.exists():
            beside = header.with_suffix(f".{os.getpid()}.gch")
            header.write_text("#include <immintrin.h>\n", encoding="ascii")
            asked = [*runner.command, *flags, "-x", "c-header", header, "-o", beside]
            subprocess.run(asked, check=True)
            beside.replace(compiled)
        os.utime(compiled)
        os.utime(header)
        return ("-include", str(header))


def key(runner: _Runner, arguments: Sequence[str]) -> str:
    """Return a name for what the compiler makes: of its version, its arguments and all it reads."""
    found = sha256(repr((runner.command, list(arguments))).encode())
    found.update(_version(runner.command, *(flag for flag in arguments if flag[:2] == "-m")))
    for path in sorted(_read(runner.folder, arguments)):
        content = path.read_bytes()
        if path.suffix == ".h":  # its comments tell of the network
            content = re.sub(rb"/\*.*?\*/", b"", content, flags=re.DOTALL)
        found.update(repr((path.name, len(content))).encode() + content)
    return found.hexdigest()


def _read(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """Yield files that are named in the arguments, and those that files name."""
    waiting, seen = list(names), set[str]()
    while waiting:
        name = waiting.pop()
        path = folder / name
        if name in seen or not path.is_file():
            continue
        seen.add(name)
        yield path
        if path.suffix in {".c", ".h", ".S"}:
            waiting += re.findall(r'"([\w.]+)"', path.read_text(encoding="ascii"))


@cache
def _version(command: Sequence[str], *flags: str) -> bytes:
    """Return the macros that a compiler has: they tell its version, and what "native" is here."""
    asked = [*command, *flags, "-dM", "-E", "-x", "c", os.devnull]
    return subprocess.run(asked, stdin=subprocess.DEVNULL, capture_output=True, check=True).stdout
