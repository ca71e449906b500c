"""How many multiply-adds this machine can do: measured, not looked up."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from secateur.compiler import toolchain
from secateur.errors import CompileError
from secateur.machine import can_pin

_BOUND = """
import json, os, sys
os.sched_setaffinity(0, json.loads(sys.argv[1]))
os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True, slots=True)
class Roofline:
    """The most operations a second, of all threads together; two a multiply-add."""

    registers: float
    """Of float32, with both factors in registers."""
    cache: float
    """With one factor an aligned vector in the first-level cache, as sparse kernels have it."""
    dots: float
    """Of int8, by dot products of four; 0 where the processor has no instruction for them."""
    threads: int

    def of(self, kernel: str) -> float:
        """Return what a step's kernel is measured by."""
        return self.dots if kernel.startswith("int8") else self.registers


def measure(cores: Sequence[int]) -> Roofline:
    """Return what a small C program reaches, with a thread on each of these cores.

    Raises:
        CompileError: there is no C compiler, or the program cannot be built or run.
    """
    try:
        compiler = toolchain.compiler(toolchain.target())
    except CompileError as error:
        raise CompileError(f"the roofline (--layers) is measured by a C program: {error}") from None
    source = files("secateur.compiler") / "c" / "roofline.c"
    with tempfile.TemporaryDirectory() as folder, as_file(source) as path:
        program = str(Path(folder) / "roofline")
        _run([*compiler, "-O3", "-march=native", "-pthread", str(path), "-o", program])
        command = [program, str(len(cores))]
        said = _run(
            [sys.executable, "-c", _BOUND, str(list(cores)), *command] if can_pin() else command
        )
    registers, cache, dots = (1e9 * float(word) for word in said.split())
    return Roofline(registers, cache, dots, len(cores))


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise CompileError(
            f"cannot measure the roofline: {command[0]} ended with status {done.returncode}; "
            f"{done.stderr.strip()[-400:] or 'it said nothing'}"
        )
    return done.stdout
