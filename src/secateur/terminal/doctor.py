"""What this machine can do, what it lacks, and what to do about it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from secateur import data, machine, nets
from secateur.data import cifar10
from secateur.machine import OtherProcesses, usable_cores
from secateur.pruning.selecting.patterns import PATTERNS

LEAST_PYTHON = (3, 11)
LEAST_TORCH = (2, 6)
LOOK = 0.3  # seconds for which other processes are watched
CIFAR_SPACE = 0.4  # GiB: the archive and the batches decoded from it, rounded up


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    value: str
    """What was found."""
    ok: bool | None = None
    """True: as it should be. False: something will fail. None: no matter, or a matter of taste."""
    hint: str = ""
    """What to do, where there is something to do."""
    figures: dict[str, float] | None = None
    """What was measured, for programs."""


def examine() -> tuple[Check, ...]:
    """Return everything there is to know before a study, in the order in which to read it.

    Fetches nothing and changes nothing: a temporary file in the cache's folder is all it writes.
    """
    return (
        *_versions(),
        *_hardware(),
        _compiler(),
        *_cache(),
        _npm(),
        Check("data sets", ", ".join(sorted(data.DATASETS))),
        Check("nets", ", ".join(sorted(nets.NETS))),
        Check("patterns", "; ".join(p.FORM for p in PATTERNS.values() if not p.smaller)),
    )


def _versions() -> Iterator[Check]:
    found = machine.versions()
    yield Check("secateur", found["secateur"], True)
    for name, least in (("python", LEAST_PYTHON), ("torch", LEAST_TORCH)):
        major, minor = found[name].split(".")[:2]
        fine = (int(major), int(minor)) >= least
        wanted = ".".join(map(str, least))
        yield Check(name, found[name], fine, "" if fine else f"install {wanted} or later")


def _hardware() -> Iterator[Check]:
    cpu = machine.describe()
    physical = cpu["physical_cores"]
    yield Check("processor", str(cpu["cpu"]))
    yield Check("cores", f"{cpu['cores']} usable" + (f", {physical} physical" if physical else ""))
    yield _threads(torch.get_num_threads(), int(str(cpu["cores"])))
    yield _neighbours(torch.get_num_threads())
    yield Check("memory", "unknown" if cpu["memory_gib"] is None else f"{cpu['memory_gib']} GiB")
    names = cpu["instructions"]
    yield Check("instructions", ", ".join(names) if isinstance(names, list) and names else "none")
    if machine.bf16(torch.device("cpu")):
        yield Check("bf16 on processor", "yes", True)
    else:
        yield Check(
            "bf16 on processor",
            "no",
            None,
            "training runs in float32; bf16 takes a processor with AVX-512 BF16 or AMX",
        )
    if cpu["gpu"]:
        half = machine.bf16(torch.device("cuda", 0))
        yield Check("CUDA", f"{cpu['gpu']}, bf16: {'yes' if half else 'no'}", True)
    elif torch.version.cuda:
        yield Check("CUDA", "no device", None, "if there is a GPU, see to its driver")
    else:
        yield Check(
            "CUDA",
            "torch is built without it",
            None,
            "if there is a GPU, install a CUDA build of torch",
        )


def _threads(threads: int, cores: int) -> Check:
    if threads > cores:
        hint = f"more threads than cores slow each other down; set OMP_NUM_THREADS={cores}"
        return Check("threads", str(threads), False, hint)
    hint = f"OMP_NUM_THREADS={cores} would use every core" if threads < cores else ""
    return Check("threads", str(threads), None if hint else True, hint)


def _neighbours(threads: int) -> Check:
    cores = usable_cores()
    others = OtherProcesses(cores)
    time.sleep(LOOK)
    share = others.share()
    if share is None:
        return Check("other processes", "unknown on this system")
    value = f"{100 * share:.0f} % of the cores"
    free = max(1, round((1 - share) * len(cores)))
    if threads <= free:
        return Check("other processes", value, True)
    # All threads of an operator wait for its last one. Where that one waits for a core, the
    # others spin: small operators were seen to take 40 times as long as on one thread.
    return Check(
        "other processes",
        value,
        None,
        f"training with {threads} threads beside them can be many times slower than with "
        f"{free}; set OMP_NUM_THREADS={free}",
    )


def crowded(device: torch.device) -> str:
    """Return why a study would be slow beside what runs here now, or nothing.

    Takes a third of a second.

    Args:
        device: on a GPU the cores do not matter, and nothing is looked at.
    """
    if device.type != "cpu":
        return ""
    found = _neighbours(torch.get_num_threads())
    if not found.hint:
        return ""
    return f"other processes take {found.value}: the study takes longer, its numbers are the same"


def _first_line(*command: str) -> str | None:
    """Return the first line that a command prints, or None where it fails."""
    path = shutil.which(command[0])
    if path is None:
        return None
    try:
        done = subprocess.run(
            [path, *command[1:]], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return next(iter(done.stdout.splitlines()), "").strip()


def _compiler() -> Check:
    for name in ("cc", "gcc", "clang"):
        if line := _first_line(name, "--version"):
            return Check("C compiler", f"{shutil.which(name)}: {line}", True)
    return Check("C compiler", "none of cc, gcc, clang", None, "studies do without one")


def _npm() -> Check:
    if version := _first_line("npm", "--version"):
        return Check("npm", version, True)
    return Check(
        "npm",
        "not found",
        None,
        "only needed where CIFAR-10's official site cannot be reached; comes with Node.js",
    )


def _cache() -> Iterator[Check]:
    folder = data.cache_directory()
    there = next(path for path in (folder, *folder.parents) if path.is_dir())
    writable = _writable(there)
    hint = "" if writable else f"{there} cannot be written to; set SECATEUR_CACHE to another folder"
    yield Check("cache", f"{folder}{'' if there == folder else ' (not made yet)'}", writable, hint)
    # By name only: loading verifies every byte, and takes longer.
    batches = [folder / "cifar10" / f"{name}.bin" for name in cifar10.ORIGIN.sha256]
    cached = all(batch.is_file() for batch in batches)
    free = shutil.disk_usage(there).free / 2**30
    enough = cached or free >= CIFAR_SPACE
    hint = "" if enough else f"fetching CIFAR-10 takes {CIFAR_SPACE:g} GiB there"
    yield Check("free space", f"{free:.1f} GiB", enough, hint)
    hint = "" if cached else "the first study on it fetches it (139 or 170 MB)"
    yield Check("CIFAR-10", "in the cache" if cached else "not here yet", cached or None, hint)


def _writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return os.access(folder, os.W_OK)
    except OSError:
        return False
