"""A study of seconds that faults are done to: it is run in a process of its own, and compared.

Its processes are copies of one that has imported what they need: that takes longer than all that
they do, and moments to kill them at are better spent on that.

What is compared are all numbers of all records, every checkpoint and results.csv, with those of a
run that nobody disturbed.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from secateur.cli import main
from secateur.study import report
from secateur.study.executors import processes, worker

ARGUMENTS = [
    *("--data", "digits", "--net", "mlp", "--keep", "0.5", "--criteria", "gate,magnitude"),
    *("--seeds", "2", "--epochs", "1", "--gate-epochs", "1", "--calibration", "128"),
    *("--margin", "0.5", "--smaller", "0", "--no-measure"),
]
PASSING = ("seconds", "started", "sha256", "work")
"""What a record says that differs each time."""
_NUMBERS = count()
LONGEST = 600  # seconds: a run that takes longer hangs


@dataclass(frozen=True)
class Ended:
    """How a run ended: its exit code, -n where signal n has ended it, and what it said."""

    code: int
    said: str

    @property
    def refused(self) -> bool:
        """Whether it ended with a message, and not with the trace of an exception."""
        lines = [line for line in self.said.splitlines() if line.startswith("secateur: ")]
        return self.code in (1, 2) and len(lines) == 1 and "Traceback" not in self.said


class Running:
    """A run of the study, in a child of this process."""

    def __init__(
        self,
        out: Path,
        *words: str,
        drawn: bool = False,
        largest: int | None = None,
        log: Path | None = None,
        modules: Path | None = None,
    ) -> None:
        """Start it.

        Args:
            out: of the study.
            words: more arguments, such as "--workers", "2".
            drawn: whether its report has figures, which take longer than all else.
            largest: bytes that a file of this run may have, where there is a limit.
            log: where it writes what it says; by default beside the study.
            modules: where it writes in the end which modules it has, if anywhere.
        """
        self._log = log or out.parent / f"{out.name}-{next(_NUMBERS)}.log"
        self._status: int | None = None
        self.pid = os.fork()
        if not self.pid:
            arguments = ["secateur", "study", *ARGUMENTS, "--out", str(out), *words]
            _study(arguments, self._log, drawn, largest, modules)

    def over(self) -> bool:
        """Return whether it has ended, without waiting for that."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = status if pid else None
        return self._status is not None

    def end(self) -> Ended:
        """Wait for its end; one that hangs is killed."""
        deadline = time.monotonic() + LONGEST
        while not self.over():
            if time.monotonic() > deadline:
                self.kill(*self.children())
            time.sleep(0.02)
        assert self._status is not None
        said = self._log.read_text(errors="replace")
        self._log.unlink()
        return Ended(os.waitstatus_to_exitcode(self._status), said)

    def kill(self, *others: int) -> None:
        """Kill it, and others, at once, as when the power fails."""
        for pid in (self.pid, *others):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def children(self) -> list[int]:
        """Return the processes that it has started."""
        return below(self.pid)


def _study(
    arguments: Sequence[str], log: Path, drawn: bool, largest: int | None, modules: Path | None
) -> None:
    """Be a run of the study, and end with it."""
    code = 1
    try:
        os.setsid()
        with log.open("w") as file:
            for number in (1, 2):
                os.dup2(file.fileno(), number)
        if largest is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, most))
        if not drawn:
            report.printed = lambda *given, **options: {}
        processes.started = _Copy
        sys.argv = list(arguments)
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        if modules is not None:
            modules.write_text("\n".join(sys.modules))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
        with suppress(OSError):
            sys.stderr.flush()
        os._exit(code)


class _Copy:
    """A copy of a run that is a worker of it, in place of a process that begins with nothing."""

    def __init__(self) -> None:
        asked, ask = os.pipe()
        answer, answered = os.pipe()
        self._status: int | None = None
        self.pid = os.fork()  # a run has other threads, but they only read from other workers
        if not self.pid:
            _be_worker(asked, answered)
        for end in (asked, answered):
            os.close(end)
        self.stdin, self.stdout = os.fdopen(ask, "wb"), os.fdopen(answer, "rb")

    def kill(self) -> None:
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        if self._status is None:
            _, self._status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(self._status)


def _be_worker(asked: int, answered: int) -> None:
    """Be a worker of a study, and end with it."""
    try:
        os.dup2(asked, 0)
        os.dup2(answered, 1)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # pipes of other workers, and the lock
        sys.stdin = os.fdopen(0)
        worker.main()
    finally:
        os._exit(0)


def run(out: Path, *words: str, **limits: Any) -> Ended:
    """Run the study to its end; arguments as of `Running`."""
    return Running(out, *words, **limits).end()


def spent(pids: Iterable[int]) -> float:
    """Return how many seconds of a CPU processes have taken; of those that are gone, none."""
    ticks = 0
    for pid in pids:
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def below(root: int) -> list[int]:
    """Return all processes that descend from one."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found, waiting = [], [root]
    while waiting:
        waiting += (new := parents.get(waiting.pop(), []))
        found += new
    return found


def numbers(out: Path) -> dict[str, Any]:
    """Return everything of a study that must not depend on what was done to it."""
    found: dict[str, Any] = {}
    for path in sorted((out / "records").glob("*.json")):
        record = json.loads(path.read_text())
        for entry in record.get("log", ()):
            entry.pop("seconds")
        found[path.stem] = {key: value for key, value in record.items() if key not in PASSING}
    for path in sorted((out / "checkpoints").glob("*.safetensors")):
        found[path.name] = path.read_bytes() if path.is_file() else None
    table = out / "results.csv"
    return found | {table.name: table.read_text() if table.is_file() else None}


def copied(source: Path, target: Path) -> Path:
    """Copy a study to where there may be another, without its lock."""
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(source, target, ignore=shutil.ignore_patterns(".lock")))
