"""Faults done to a study on purpose, by the hundred; none may lose or change a number.

    python benchmarks/faults.py                  # all kinds, some 850 faults
    python benchmarks/faults.py --few            # some of each kind, in minutes
    python benchmarks/faults.py damage disk

| kind | what is done to a study of seconds |
|---|---|
| kill-1, kill-2, kill-ray | killed at random moments: its process, a worker or all |
| damage | each of its files damaged in 16 ways, then run |
| quota, disk | no file above a size; a disk that is full at a size |
| twice | started a second time while it runs |

The kills are of a study with one worker, with two, and on Ray.

Each fault ends in the numbers of an undisturbed run, or in one clear refusal and then, once what
that asks for is done, in those numbers. What does not is printed; the exit status is then 1. Ray
is used where it is installed, and a disk where `unshare` gives this process mounts of its own.
Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

import fault_kinds
from fault_kinds import Fault, Undisturbed, undisturbed
from fault_runs import Running, below
from secateur import machine

KINDS = ("kill-1", "kill-2", "kill-ray", "damage", "quota", "disk", "twice")
MANY = {"kill": 100, "damage": None, "quota": 20, "disk": 20, "twice": 20}
FEW = {"kill": 5, "damage": 40, "quota": 3, "disk": 3, "twice": 2}
DRAWN = ("damage", "quota", "disk")  # whose studies have figures
APART = "SECATEUR_FAULTS_APART"
"""In the environment: this process has mounts of its own."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("kinds", nargs="*", help=", ".join(KINDS) + "; by default all")
    parser.add_argument("--few", action="store_true", help="some of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--done", type=int, default=0, help="damages that were done before")
    parser.add_argument("--list", type=Path, help="a file that gets a line of JSON for each fault")
    given = parser.parse_args(arguments)
    if unknown := set(given.kinds) - set(KINDS):
        parser.error(f"there is no kind {', '.join(sorted(unknown))}; they are {', '.join(KINDS)}")
    kinds = given.kinds or KINDS
    if "disk" in kinds and APART not in os.environ:
        _apart()
    torch.set_num_threads(1)
    here = machine.describe()
    print(f"{here['cpu']}, {here['physical_cores']} cores, torch {torch.__version__}")
    print(
        "| kind | faults | went through | refused first | lost or changed |\n|---|---|---|---|---|"
    )
    total = wrong = 0
    with tempfile.TemporaryDirectory(prefix="secateur-faults-") as folder:
        like = undisturbed(Path(folder) / "peace", "--workers", "1")
        drawn = undisturbed(Path(folder) / "drawn", "--workers", "1", drawn=True)
        for kind in kinds:
            place = Path(folder) / kind
            place.mkdir()
            found = []
            for fault in _done(
                kind,
                drawn if kind in DRAWN else like,
                place,
                FEW if given.few else MANY,
                given,
            ):
                found.append(fault)
                if fault.lost:
                    print(f"\n{kind}: {fault.what}: {fault.lost}\n", file=sys.stderr, flush=True)
                if given.list:
                    with given.list.open("a") as file:
                        file.write(json.dumps({"kind": kind, **vars(fault)}) + "\n")
            lost = sum(bool(fault.lost) for fault in found)
            refused = sum(fault.refused and not fault.lost for fault in found)
            print(
                f"| {kind} | {len(found)} | {len(found) - lost - refused} | {refused} | {lost} |",
                flush=True,
            )
            total, wrong = total + len(found), wrong + lost
            shutil.rmtree(place)
    print(f"{wrong} of {total} faults lost or changed a number")
    return int(wrong > 0)


def _done(
    kind: str, like: Undisturbed, place: Path, counts: dict[str, int | None], given: Any
) -> Iterator[Fault]:
    """Do the faults of a kind."""
    draw = random.Random(f"{kind} {given.seed}")
    count = counts[kind.partition("-")[0]]
    if kind == "damage":
        yield from fault_kinds.damages(like, place, count, draw, given.done)
        return
    assert count is not None
    if kind in ("kill-1", "kill-2"):
        words = ("--workers", kind[-1])
        own = like if kind == "kill-1" else _alike(like, place, *words)
        yield from fault_kinds.kills(own, place, count, draw, *words)
    elif kind == "kill-ray":
        if not find_spec("ray"):
            print("Ray is not installed, so nothing is killed on it: pip install '.[ray]'")
            return
        with _head() as (address, workers):
            words = ("--executor", "ray", "--address", address)
            own = _alike(like, place, *words, workers=workers)
            yield from fault_kinds.kills(own, place, count, draw, *words, workers=workers)
    elif kind == "quota":
        yield from fault_kinds.small_files(like, place, count)
    elif kind == "disk":
        if APART not in os.environ:
            print("this process may not mount, so no disk was full")
            return
        yield from fault_kinds.full_disk(like, place, count)
    else:
        yield from fault_kinds.two_runners(like, place, count, draw)


def _alike(like: Undisturbed, place: Path, *words: str, **given: Any) -> Undisturbed:
    """Run in peace with other words, which must give the same."""
    own = undisturbed(place / "peace", *words, **given)
    if wrong := like.differs(own.directory):
        raise SystemExit(f"with {' '.join(words)}, undisturbed: {wrong}")
    return own


def _apart() -> None:
    """Go on in a namespace where this process may mount, if the system gives one."""
    command = ["unshare", "--map-root-user", "--mount"]
    if shutil.which("unshare") and not subprocess.run([*command, "true"], check=False).returncode:
        os.environ[APART] = "1"
        os.execvp(command[0], [*command, sys.executable, *sys.argv])


@contextmanager
def _head() -> Iterator[tuple[str, Callable[[Running], list[int]]]]:
    """Start a Ray cluster of two cores; yield its address, and what returns its workers."""
    # Else the head makes a token of its own, which studies do not know.
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"]
    command += ["--node-ip-address", "127.0.0.1", "--port", address.rpartition(":")[2]]
    command += ["--num-cpus", "2", "--include-dashboard=false", "--disable-usage-stats"]
    head = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def workers(_: Running) -> list[int]:
        named = {pid: _title(pid) for pid in below(head.pid)}
        # Without its agents, which are named alike, a node ends; this cluster has but one.
        return [p for p, name in named.items() if name.startswith("ray::") and "Agent" not in name]

    try:
        deadline = time.monotonic() + 60
        while not _listens(address):
            if time.monotonic() > deadline or head.poll() is not None:
                raise SystemExit("no Ray cluster could be started")
            time.sleep(0.2)
        yield address, workers
    finally:
        rest = below(head.pid)
        head.terminate()
        head.wait(60)
        for pid in rest:
            if _title(pid):
                os.kill(pid, 9)


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0]
    except OSError:
        return ""


if __name__ == "__main__":
    sys.exit(main())
