"""Which cores this process may use, and what other processes take of them."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from secateur.errors import UsageError, whole

PROC = Path("/proc")
SYSTEM = Path("/sys/devices/system/cpu")


def usable() -> tuple[int, ...]:
    """Return the logical cores that this process may use, one of each physical core first."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    numbers = sorted(affinity(0)) if affinity else range(os.cpu_count() or 1)
    seen: set[str] = set()
    first: list[int] = []
    second: list[int] = []
    for number in numbers:
        siblings = _siblings(number)
        (second if siblings in seen else first).append(number)
        seen.add(siblings)
    return (*first, *second)


def physical() -> int:
    """Return how many physical cores this process may use."""
    return len({_siblings(number) for number in usable()})


def chosen(threads: int | None) -> tuple[int, ...]:
    """Return one logical core for each thread, on as many physical cores as there are.

    Args:
        threads: None means one for each physical core.

    Raises:
        UsageError: fewer than one, or more than there are cores.
    """
    cores = usable()
    count = physical() if threads is None else threads
    if not whole(count) or not 1 <= count <= len(cores):
        raise UsageError(
            f"cannot run {count} threads on {len(cores)} cores of their own; "
            f"choose a number from 1 to {len(cores)}"
        )
    return cores[: int(count)]


def pins() -> bool:
    """Return whether this system can bind a process to cores."""
    return hasattr(os, "sched_setaffinity")


class Others:
    """What other processes take of some cores, from when this is made on.

    Args:
        cores: which.
        ours: process numbers that do not count, beside this process.
    """

    def __init__(self, cores: Sequence[int], ours: Sequence[int] = ()) -> None:
        self._cores = {f"cpu{number}" for number in cores}
        self._ours = (os.getpid(), *ours)
        self._start = time.perf_counter()
        self._before = self._theirs()

    def share(self) -> float | None:
        """Return their part of the cores' time, from 0 to 1; None where the system does not tell.

        Time that a virtual machine's host gave to others counts as theirs.
        """
        after = self._theirs()
        if after is None or self._before is None:
            return None
        total = (time.perf_counter() - self._start) * len(self._cores)
        return min(1.0, max(0.0, (after - self._before) / total))

    def _theirs(self) -> float | None:
        try:
            lines = [line.split() for line in (PROC / "stat").read_text().splitlines()]
            # user, nice, system, idle, waiting for disks, interrupts (2), stolen by the host
            ticks = [list(map(int, line[1:9])) for line in lines if line[0] in self._cores]
            if len(ticks) != len(self._cores):
                return None  # a container may show other numbers than it may use
            busy = sum(sum(t) - t[3] - t[4] for t in ticks)
            ours = sum(self._taken(number) for number in self._ours)
            return (busy - ours) / os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError, IndexError):
            return None

    def _taken(self, number: int) -> int:
        # The name, in brackets, may hold anything; fields 14 and 15 are user and system time.
        fields = (PROC / str(number) / "stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])


def _siblings(number: int) -> str:
    try:
        return (SYSTEM / f"cpu{number}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(number)
