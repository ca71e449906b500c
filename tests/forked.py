"""Python programs in processes of their own, that need not import torch again.

They are forked from a process that has imported what secateur builds on: that takes longer than
most of them run. secateur itself they import as any program does.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import shutil
import signal
import sys
import tempfile
import types
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

IMPORTED = [
    *("torch", "torch._dynamo", "torch.onnx", "numpy", "scipy.stats", "safetensors.torch"),
    *("matplotlib.backends.backend_agg", "plotly", "onnx", "onnxruntime", "typer", "rich.progress"),
]
"""torch._dynamo is what an optimizer imports."""

KIND = "forkserver" if sys.platform == "linux" else "spawn"
"""How processes start; other systems may not fork what has imported torch."""
_CONTEXT = multiprocessing.get_context(KIND)
_CONTEXT.set_forkserver_preload(IMPORTED)


class Program:
    """A program that runs.

    Attributes:
        pid: of its process.
        status: what it ended with, -n where signal n has ended it; None while it runs.
        out, err: what it has written, when it has ended.
    """

    def __init__(
        self,
        *arguments: str,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start it.

        Args:
            arguments: as of `python`: "-c" and code, "-m" and a module, or a file, with "-W error"
                in front or not; then those of the program.
            folder: to run in.
            environment: variables beside those that are here.
        """
        self.out = self.err = ""
        self._files = Path(tempfile.mkdtemp(prefix="program-"))
        for name in ("out", "err"):  # it may be killed before it writes
            (self._files / name).touch()
        known = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
        given = (arguments, folder or Path.cwd(), known, self._files)
        self._process = _CONTEXT.Process(target=_run, args=given)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def status(self) -> int | None:
        return self._process.exitcode

    def send(self, number: int) -> None:
        """Send a signal, where it still runs."""
        if self.status is None:
            os.kill(self.pid, number)

    def wait(self, limit: float = 300) -> None:
        """Wait until it ends; after `limit` seconds it is killed."""
        self._process.join(limit)
        if self.status is None:
            self._process.kill()
            self._process.join()
        self.out, self.err = ((self._files / name).read_text() for name in ("out", "err"))
        shutil.rmtree(self._files)


def run(
    *arguments: str, folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> Program:
    """Run a program to its end; arguments as of `Program`."""
    program = Program(*arguments, folder=folder, environment=environment)
    program.wait()
    return program


def _run(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str], files: Path
) -> None:
    import torch

    for number, name in (1, "out"), (2, "err"):
        os.dup2(os.open(files / name, os.O_WRONLY), number)
    # a shell's background job ignores Ctrl-C, and so does what it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    root = Path(__file__).parents[1]
    of_tests = {root, root / "tests", root / "benchmarks"}
    sys.path[:] = [path for path in sys.path if Path(path).absolute() not in of_tests]
    if arguments[0] == "-W":
        warnings.simplefilter(arguments[1])  # type: ignore[arg-type]
        arguments = arguments[2:]
    kind, *rest = arguments
    if kind == "-c":
        sys.path.insert(0, "")
        sys.argv = ["-c", *rest[1:]]
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), main.__dict__)
    elif kind == "-m":
        sys.path.insert(0, str(folder))
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(kind).parent))
        sys.argv = list(arguments)
        runpy.run_path(kind, run_name="__main__")
