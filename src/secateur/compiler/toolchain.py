"""From C to a library or a program: which compiler, with which flags."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from hashlib import sha256
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import platformdirs

from secateur.compiler import bundle, targets
from secateur.compiler.targets import Target
from secateur.errors import CompileError, FileError

OPTIMIZE = "-O3"
"""How hard the compiler tries with generated code."""

_COMMON = ("-std=gnu99", "-fPIC", "-fvisibility=hidden", "-w")
_MATH = ("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")

_ZIG = (sys.executable, "-m", "ziglang", "cc")

# The assembler copies the constants as they are: nothing is parsed, whatever their size. The
# checksum is for compilers that keep results by their source's content.
_WEIGHTS = """\
/* {checksum} */
#include "names.h"
#if defined(__APPLE__)
#define LABEL_(name) _##name
#define LABEL(name) LABEL_(name)
    .section __TEXT,__const
#elif defined(_WIN32)
#define LABEL(name) name
    .section .rdata,"dr"
#elif defined(__wasm__)
#define LABEL(name) name
    .section .rodata.stored,"",@
#else
#define LABEL(name) name
    .section .rodata
    .hidden sec_stored
#endif
    .globl LABEL(sec_stored)
    .p2align 6
#if defined(__wasm__)
    .type sec_stored, @object
#endif
LABEL(sec_stored):
    .incbin "weights.bin"
#if defined(__wasm__)
    .size sec_stored, {size}
#elif defined(__linux__)
    .section .note.GNU-stack,"",%progbits
#endif
"""


def target(name: str = "native") -> Target:
    """Return a target by name; "native" is this machine, as its compiler sees it.

    Raises:
        UsageError: there is none of that name.
        CompileError: this machine has no C compiler.
    """
    return native() if name == "native" else targets.find(name)


def native() -> Target:
    """Return this machine as a target: its vectors and instruction sets, told by its compiler.

    Raises:
        CompileError: there is no C compiler, or it fails.
    """
    return _native(compiler(Target("native", "", "", 0, 0)))


def compiler(target: Target) -> tuple[str, ...]:
    """Return the command that compiles C for a target.

    This machine's: what the variable CC names, else cc, gcc, clang, else that of `ziglang`.

    Raises:
        CompileError: none is there; says what to install.
    """
    if target.triple:
        if not importlib.util.find_spec("ziglang"):
            raise CompileError(
                f"compiling for {target.name} takes the package ziglang, which is not installed; "
                "pip install ziglang"
            )
        return (*_ZIG, "-target", target.triple)
    if named := shlex.split(os.environ.get("CC", "")):
        if shutil.which(named[0]) is None:
            raise CompileError(
                f"the variable CC names the compiler {named[0]!r}, which is not installed; "
                "install it, or unset CC"
            )
        return tuple(named)
    for name in ("cc", "gcc", "clang"):
        if found := shutil.which(name):
            return (found,)
    if importlib.util.find_spec("ziglang"):
        return _ZIG
    raise CompileError(
        "there is no C compiler (cc, gcc or clang); install gcc or clang, "
        "or pip install ziglang, which brings one"
    )


def build(
    model: Mapping[str, str],
    weights: bytes,
    network: Mapping[str, Any],
    target: Target,
    *,
    program: bool = False,
    prefix: str = "secateur",
) -> bytes:
    """Compile a network.

    Args:
        model: generated C files by name, such as {"model.c": ...}; several are compiled at once.
        weights: what `sec_stored` is to hold.
        network: what the header tells of it: name, inputs, outputs, batched.
        target: what for.
        program: build the example program, linked with all that it needs where the target is not
            this machine, rather than a library.
        prefix: what public names begin with.

    Returns:
        the content of the shared library, wasm module or program.

    Raises:
        CompileError: there is no compiler, or it fails.
        FileError: the disk of temporary files is full.
    """
    command = compiler(replace(target, triple=target.static) if program else target)
    content = bundle.sources(model, network, prefix)
    checksum = sha256(weights).hexdigest()
    content["weights.S"] = _WEIGHTS.format(checksum=checksum, size=len(weights))
    units = [name for name in content if name.endswith((".c", ".S")) and name != "main.c"]
    if program:
        units.append("main.c")
    try:
        with tempfile.TemporaryDirectory(prefix="secateur-") as name:
            folder = Path(name)
            for file, text in content.items():
                (folder / file).write_text(text, encoding="ascii")
            (folder / "weights.bin").write_bytes(weights)
            run = _Runner(command, folder)
            with ThreadPoolExecutor(max(1, os.cpu_count() or 1)) as pool:
                list(pool.map(lambda unit: run(_compile(unit, unit in model, target)), units))
            objects = [f"{unit}.o" for unit in units]
            public = _public(content[f"{prefix}.h"], prefix)
            run([*objects, "-o", "result", *_link(target, program, public)])
            return (folder / _result(folder)).read_bytes()
    except OSError as error:
        raise FileError(
            f"cannot write temporary files for the C compiler in {tempfile.gettempdir()}: "
            f"{error.strerror or error}; free some space, or set TMPDIR to another folder"
        ) from error


def _compile(unit: str, generated: bool, target: Target) -> list[str]:
    flags = [OPTIMIZE, *_MATH] if generated else ["-O2"]
    if generated or unit == "required.c":
        flags += target.flags
    return [*_COMMON, *flags, "-c", unit, "-o", f"{unit}.o"]


def _public(header: str, prefix: str) -> list[str]:
    """Return the names of the functions that a header declares."""
    return re.findall(rf"\b({prefix}_\w+)\(", header)


def _link(target: Target, program: bool, public: Sequence[str]) -> list[str]:
    kind = [] if program else ["-shared"]
    if target.system == "wasi":
        if program:
            return ["-s"]
        exports = (f"-Wl,--export={name}" for name in ("malloc", "free", *public))
        return ["-s", "-mexec-model=reactor", *exports]
    if target.system == "macos":
        return [*kind, "-Wl,-x"]
    if target.system == "windows":
        return [*kind, "-s"]
    if program and target.triple:
        kind = ["-static"]
    return [*kind, "-s", "-pthread", "-lm"]


def _result(folder: Path) -> str:
    """Return the name that the compiler gave to what it linked: some add an ending."""
    (name,) = (n for n in ("result", "result.exe", "result.wasm") if (folder / n).exists())
    return name


class _Runner:
    """Runs the compiler in a folder."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self.command, self.folder = tuple(command), folder
        self.environment = dict(os.environ)
        if "ziglang" in command:
            # what is kept between builds: libraries and headers; what is not: our objects
            common = platformdirs.user_cache_path("secateur") / "zig"
            self.environment.setdefault("ZIG_GLOBAL_CACHE_DIR", str(common))
            self.environment["ZIG_LOCAL_CACHE_DIR"] = str(folder / "zig")

    def __call__(self, arguments: Sequence[str]) -> str:
        try:
            done = subprocess.run(
                [*self.command, *arguments],
                cwd=self.folder,
                env=self.environment,
                capture_output=True,
                stdin=subprocess.DEVNULL,
                text=True,
                errors="replace",
                check=False,
            )
        except OSError as error:
            raise CompileError(
                f"cannot run {self.command[0]}: {error.strerror or error}"
            ) from error
        if done.returncode:
            said = done.stderr.strip()
            first = re.search(r"^.*\berror\b.*$", said, re.MULTILINE)
            raise CompileError(
                f"the C compiler failed: {shlex.join([*self.command, *arguments])} ended with "
                f"status {done.returncode}: {first[0] if first else said[-400:] or 'no message'}"
            )
        return done.stdout


@cache
def _native(command: tuple[str, ...]) -> Target:
    """Ask a compiler what its -march=native means."""
    architecture = targets.this_architecture()
    # not every compiler knows -march=native on every processor
    for flags in (("-march=native",), ("-mcpu=native",), ()):
        try:
            lanes, registers, matrix, features = _probe(command, flags)
        except CompileError:
            if not flags:
                raise
            continue
        return Target(
            *("native", targets.this_system(), architecture, lanes, registers),
            *(flags, "", "", flags, features),
            matrix=matrix,
        )
    raise AssertionError


def _probe(command: Sequence[str], flags: Sequence[str]) -> tuple[int, int, bool, tuple[str, ...]]:
    with (
        tempfile.TemporaryDirectory(prefix="secateur-") as name,
        as_file(files("secateur.compiler") / "c") as sources,
    ):
        path = str(sources / "probe.c")
        said = _Runner(command, Path(name))([*flags, "-E", "-P", path])
    vectors = re.search(r"^vectors (\d+) (\d+)", said, re.MULTILINE)
    if not vectors:
        raise CompileError(
            f"{command[0]} is not a C compiler that secateur knows: use gcc or clang"
        )
    features = tuple(re.findall(r'feature "(\w+)"', said))
    matrix = re.search(r"^matrix$", said, re.MULTILINE) is not None
    return int(vectors[1]), int(vectors[2]), matrix, features
