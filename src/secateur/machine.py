"""This machine: what a record says of it, which arithmetic is fast on it, and its cores."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.errors import UsageError, whole
from secateur.version import VERSION

if TYPE_CHECKING:
    import torch

CPUINFO = Path("/proc/cpuinfo")

INSTRUCTIONS = (
    *("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16"),
    *("neon", "dotprod", "i8mm", "bf16", "sve", "sve2"),
)
"""The instruction sets that decide how fast a network trains or runs, as Linux spells x86's."""

OTHER_NAMES = {"asimd": "neon", "asimddp": "dotprod", "avx512_f": "avx512f", "fma3": "fma"}
"""What Linux on Arm, and torch, call some of them."""


@dataclass(frozen=True)
class _Machine:
    cpu: str
    cores: int
    physical_cores: int | None
    memory_gib: float | None
    gpu: str | None
    instructions: tuple[str, ...]
    os: str


def describe(device: torch.device | None = None) -> dict[str, object]:
    """Return what this machine is, ready for JSON.

    Args:
        device: where something was computed; None: that is not said.

    Returns:
        cpu: model name. cores: logical cores that this process may use. physical_cores: how
        many cores in hardware those are, or None where the system does not tell. memory_gib:
        main memory in GiB, or None. gpu: name of the CUDA device that was given, else of the
        first, or None. instructions: those of `INSTRUCTIONS` that the processor has, sorted.
        os: system, release and architecture. device: "cpu" or "cuda", where it was given.
    """
    facts = asdict(_machine())
    facts["instructions"] = list(facts["instructions"])
    if device is not None:
        facts["device"] = device.type
        if device.type == "cuda":  # a machine may have GPUs of several kinds
            import torch

            facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


@cache
def _machine() -> _Machine:
    import torch  # takes seconds, and what asks for cores alone needs none of it

    memory = _memory_bytes()
    return _Machine(
        cpu=_cpu_name(),
        cores=len(usable_cores()),
        physical_cores=_physical_cores(),
        memory_gib=None if memory is None else round(memory / 2**30, 1),
        gpu=torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        instructions=_instructions(),
        os=f"{platform.system()} {platform.release()} {platform.machine()}",
    )


def kind(hardware: Mapping[str, Any]) -> str:
    """Return the kind of a machine: on two of one kind the same computation gives the same bits.

    Args:
        hardware: of `describe`, here or in a record; what it lacks counts as equal. What is known
            to be of the processor is of no GPU that is beside it.
    """
    gpu = None if hardware.get("device") == "cpu" else hardware.get("gpu")
    parts = [hardware.get("cpu"), " ".join(hardware.get("instructions") or ()), gpu]
    return ", ".join(str(part) for part in parts if part)


def versions() -> dict[str, str]:
    """Return the versions of numpy, Python, secateur and torch, as {name: version}."""
    import numpy
    import torch

    return {
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "secateur": VERSION,
        "torch": str(torch.__version__),
    }


@cache
def bf16(device: torch.device) -> bool:
    """Return whether bf16 autocast is worth it on a device: its hardware multiplies in bf16.

    On a processor that means AVX-512 BF16 or AMX BF16. Without them torch still runs bf16, but
    by way of float32, which gains nothing.
    """
    import torch

    if device.type == "cuda":
        if not torch.cuda.is_available():
            return False
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(_machine().instructions)


@cache
def device(name: str = "auto") -> torch.device:
    """Return the device of a name.

    Args:
        name: "auto" (the first CUDA device where there is one, else the processor), "cpu",
            "cuda", or "cuda:N" for the CUDA device of number N.

    Raises:
        UsageError: another name, or a CUDA device that is not there.
    """
    import torch

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda", 0) if there else torch.device("cpu")
    if name == "cpu":
        return torch.device("cpu")
    kind, _, number = name.partition(":")
    if kind != "cuda" or not (number.isdecimal() or name == "cuda"):
        raise UsageError(f"there is no device {name!r}; choose auto, cpu, cuda or cuda:N")
    index = int(number or 0)
    if not there:
        built = "sees no CUDA device" if torch.version.cuda else "was built without CUDA"
        raise UsageError(
            f"device {name!r} was asked for, but torch {torch.__version__} {built}; "
            "choose cpu or auto, or install a CUDA build of torch and a driver"
        )
    if index >= there:
        raise UsageError(
            f"device {name!r} was asked for, but the last CUDA device here is cuda:{there - 1}; "
            "choose it or one before it"
        )
    return torch.device("cuda", index)


def _processors() -> list[dict[str, str]]:
    """Return /proc/cpuinfo as one dict for each logical core; empty on other systems."""
    try:
        text = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [
        {
            key.strip().lower(): value.strip()
            for key, _, value in (line.partition(":") for line in block.splitlines())
        }
        for block in text.strip().split("\n\n")
    ]


def _told_by_torch() -> dict[str, Any]:
    """Return what torch found out about the processor; older releases do not say."""
    import torch

    ask = getattr(torch.cpu, "get_capabilities", None)
    return dict(ask()) if ask else {}


def _physical_cores() -> int | None:
    usable = usable_cores()
    cores = {
        (processor.get("physical id"), processor["core id"])
        for processor in _processors()
        if "core id" in processor and int(processor["processor"]) in usable
    }
    return len(cores) or _told_by_torch().get("num_physical_cores")


def _cpu_name() -> str:
    for processor in _processors():
        if name := processor.get("model name"):
            return name
    told = _told_by_torch().get("cpu_name")
    return str(told or platform.processor() or platform.machine() or "unknown")


def _instructions() -> tuple[str, ...]:
    processor = next(iter(_processors()), {})
    flags = set(processor.get("flags", processor.get("features", "")).split())
    if not flags:
        flags = {name for name, has in _told_by_torch().items() if has is True}
    known = {OTHER_NAMES.get(flag, flag) for flag in flags}
    return tuple(sorted(known.intersection(INSTRUCTIONS)))


def _memory_bytes() -> int | None:
    sysconf = getattr(os, "sysconf", None)  # not on Windows
    try:
        return int(sysconf("SC_PHYS_PAGES") * sysconf("SC_PAGE_SIZE")) if sysconf else None
    except (OSError, ValueError):
        return None


# Cores.

PROC = Path("/proc")
SYSTEM = Path("/sys/devices/system/cpu")


def usable_cores() -> tuple[int, ...]:
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


def physical_cores() -> int:
    """Return how many physical cores this process may use."""
    return len({_siblings(number) for number in usable_cores()})


def cores_for(threads: int | None) -> tuple[int, ...]:
    """Return one logical core for each thread, on as many physical cores as there are.

    Args:
        threads: None means one for each physical core.

    Raises:
        UsageError: fewer than one, or more than there are cores.
    """
    cores = usable_cores()
    count = physical_cores() if threads is None else threads
    if not whole(count) or not 1 <= count <= len(cores):
        raise UsageError(
            f"cannot run {count} threads on {len(cores)} cores of their own; "
            f"choose a number from 1 to {len(cores)}"
        )
    return cores[: int(count)]


def can_pin() -> bool:
    """Return whether this system can bind a process to cores."""
    return hasattr(os, "sched_setaffinity")


class OtherProcesses:
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
