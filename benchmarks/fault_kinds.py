"""What can go wrong with a study while it runs and between two runs, done on purpose.

Every kind yields one line per fault that was done, and whether the study came through it: in the
numbers of an undisturbed run, at once or after one clear refusal and what that asks for.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from fault_runs import Ended, Running, copied, numbers, run, spent
from secateur.study.hashed import digest
from secateur.study.reading import read_spec, spec_hash
from secateur.terminal.verification import verify

TRIES = 40  # runs in which a study that is killed again and again must end
PAUSE = 0.01  # seconds between looks at a run
DRAWN = (".svg", ".png", ".pdf")
LARGE = 1 << 28  # bytes of a disk that has room


@dataclass(frozen=True)
class Fault:
    """A fault that was done to a study.

    Attributes:
        what: was done.
        lost: what became wrong by it; empty where nothing did.
        refused: whether a run refused to go on before.
    """

    what: str
    lost: str = ""
    refused: bool = False


@dataclass(frozen=True)
class Undisturbed:
    """A study that ran in peace: its directory, its numbers, and how long it took.

    `seconds` are those of the CPU, of all its processes, since other work may stop a machine.
    """

    directory: Path
    numbers: dict[str, Any]
    seconds: float

    def differs(self, out: Path, *, named: bool = False) -> str:
        """Return in what a study differs from this one; nothing where it does not.

        Args:
            out: where the study is.
            named: pass over checkpoints that `secateur verify` names: nothing was made from them.
        """
        found = numbers(out)
        if named:
            faults = {Path(f.path).name for f in verify(out).findings if f.fault}
            found |= {n: self.numbers[n] for n in faults & self.checkpoints}
        names = sorted(found.keys() | self.numbers.keys())
        wrong = [name for name in names if found.get(name) != self.numbers.get(name)]
        return f"changed or lost: {', '.join(wrong)}" if wrong else ""

    @property
    def checkpoints(self) -> set[str]:
        """The names of its checkpoints."""
        return {path.name for path in (self.directory / "checkpoints").iterdir()}

    def after(self, what: str, out: Path, first: Ended, cure: Callable[[], object]) -> Fault:
        """Return what a fault came to, of which a run has ended; a refusal asks for the cure."""
        refused = first.code != 0
        if refused:
            if not first.refused:
                return Fault(what, f"exit code {first.code}: {first.said[-1500:]}")
            cure()
            again = run(out, "--workers", "1")
            if again.code:
                return Fault(what, f"after {first.said!r} still {again.said[-1500:]}", True)
        return Fault(what, self.differs(out, named=True), refused)


def undisturbed(
    out: Path,
    *words: str,
    drawn: bool = False,
    workers: Callable[[Running], list[int]] = Running.children,
) -> Undisturbed:
    """Run the study once in peace; arguments as of `Running` and `kills`.

    What it has imported this process imports too, and every later run is a copy of it.
    """
    modules = out.with_suffix(".modules")
    running = Running(out, *words, drawn=drawn, modules=modules)
    before, seconds = spent(workers(running)), 0.0
    while not running.over():
        seconds = max(seconds, spent([running.pid, *workers(running)]) - before)
        time.sleep(PAUSE)
    if (ended := running.end()).code:
        raise SystemExit(f"the study itself does not run: {ended.said}")
    for name in modules.read_text().split():
        with suppress(ImportError):  # one that was made while it ran
            import_module(name)
    return Undisturbed(out, numbers(out), seconds)


def kills(
    like: Undisturbed,
    place: Path,
    count: int,
    draw: random.Random,
    *words: str,
    workers: Callable[[Running], list[int]] = Running.children,
) -> Iterator[Fault]:
    """Kill a study at random moments: the process, one of its workers, or all at once.

    It is started again and killed again until it ends, and then anew. After each kill every file
    that is there is whole; in the end all is as in an undisturbed run.

    Args:
        like: an undisturbed run of the same words.
        place: an empty folder.
        count: kills.
        draw: of moments and victims.
        words: more arguments of the study.
        workers: returns the processes that do the work of a run.
    """
    out, done, tries = place / "killed", 0, 0
    while done < count or tries:
        running, what = Running(out, *words), ""
        if done < count and tries < TRIES:
            what = _kill(running, workers, draw, draw.uniform(0, like.seconds))
            done += bool(what)
        ended = running.end()
        tries += 1
        if lost := _broken(ended, out):
            yield Fault(what or "started again", lost)
        elif what:
            yield Fault(what, refused=ended.code == 1)
        if ended.code == 0 or lost or tries > 2 * TRIES:
            wrong = "" if lost else like.differs(out) if ended.code == 0 else "it never ends"
            if wrong:
                yield Fault("killed again and again", wrong)
            shutil.rmtree(out, ignore_errors=True)
            tries = 0


def _broken(ended: Ended, out: Path) -> str:
    """Return what is wrong with a study that a run has left; nothing where it may go on."""
    if ended.code not in (0, -signal.SIGKILL) and not ended.refused:
        return f"exit code {ended.code}: {ended.said[-1500:]}"
    if not (out / "records").is_dir():
        return ""
    return "; ".join(f"{f.path} is {f.state} ({f.why})" for f in verify(out).findings if f.fault)


def _kill(
    running: Running, workers: Callable[[Running], list[int]], draw: random.Random, after: float
) -> str:
    """Kill a run after so many seconds of its work; return what was done, if it still ran."""
    before = spent(workers(running))
    while spent([running.pid, *workers(running)]) - before < after:
        if running.over():
            return ""
        time.sleep(PAUSE)
    others = workers(running)
    victim = draw.choice(["process", "worker", "all"]) if others else "process"
    if running.over():
        return ""
    if victim == "worker":
        with suppress(ProcessLookupError):  # it has ended by itself
            os.kill(draw.choice(others), signal.SIGKILL)
    else:
        running.kill(*(others if victim == "all" else ()))
    return f"{victim} killed after {after:.2f} s"


Damage = Callable[[bytes, bytes, random.Random], bytes | None]
DAMAGES: dict[str, Damage] = {
    "deleted": lambda content, other, draw: None,
    "emptied": lambda content, other, draw: b"",
    "cut in half": lambda content, other, draw: content[: len(content) // 2],
    "without its last byte": lambda content, other, draw: content[:-1],
    "a bit in its middle": lambda content, other, draw: _flipped(content, len(content) // 2),
    "a bit at its beginning": lambda content, other, draw: _flipped(content, 0),
    "a bit at its end": lambda content, other, draw: _flipped(content, len(content) - 1),
    "zeros": lambda content, other, draw: bytes(len(content)),
    "noise": lambda content, other, draw: draw.randbytes(len(content)),
    "twice": lambda content, other, draw: content + content,
    "a tail": lambda content, other, draw: content + b"\0tail",
    "its neighbour's": lambda content, other, draw: other,
    "a page of zeros": lambda content, other, draw: bytes(4096) + content[4096:],
    "other line ends": lambda content, other, draw: content.replace(b"\n", b"\r\n") + b"\r\n",
}
"""What becomes of a file's content, with that of another file beside it; None: it is gone."""
PLACES: dict[str, Callable[[Path], None]] = {
    "a folder in its place": Path.mkdir,
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
}
"""What else may stand where a file was."""


def _flipped(content: bytes, at: int) -> bytes:
    if not content:
        return b"\1"
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def damages(
    like: Undisturbed, place: Path, count: int | None, draw: random.Random, done: int = 0
) -> Iterator[Fault]:
    """Damage every file of a study in every way, then run it.

    One seed is done, of the other one all trials are still to be made, from its checkpoints.

    Args:
        like: an undisturbed run.
        place: an empty folder.
        count: how many damages, at random; None: all.
        draw: of these.
        done: how many of all were done before, and are left out.
    """
    base = copied(like.directory, place / "base")
    for path in (base / "records").glob("seed-1_*_keep-*"):
        path.unlink()
    address = spec_hash(read_spec(base))
    failure = {"failed": path.stem, "why": "it rained", "traceback": ""}
    shipped = {"measured": [], "notes": [], "machine": {}, "date": ""}
    for name, content in ((f"failures/{path.name}", failure), ("shipped.json", shipped)):
        whole = {"spec": address, **content}
        (base / name).write_text(json.dumps({**whole, "sha256": digest(whole)}))
    names = sorted(p.relative_to(base).as_posix() for p in base.rglob("*") if p.is_file())
    todo = [(name, how) for name in names for how in (*DAMAGES, *PLACES)]
    if count is not None:
        todo = draw.sample(todo, count)
    for name, how in todo[done:]:
        out = copied(base, place / "damaged")
        path = out / name
        content = path.read_bytes()
        beside = sorted(p for p in path.parent.iterdir() if p.is_file() and p != path)
        beside = beside or sorted(p for p in out.rglob("*") if p.is_file() and p != path)
        path.unlink()
        if how in PLACES:
            PLACES[how](path)
        elif (new := DAMAGES[how](content, draw.choice(beside).read_bytes(), draw)) is not None:
            path.write_bytes(new)
        yield like.after(
            f"{name}: {how}",
            out,
            run(out, "--workers", "1", drawn=path.suffix in DRAWN),
            lambda path=path, content=content: _put_back(path, content),
        )


def _put_back(path: Path, content: bytes) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        path.rmdir()
    path.write_bytes(content)


def small_files(like: Undisturbed, place: Path, count: int) -> Iterator[Fault]:
    """Run a study where no file may be larger than a limit, as at the end of a quota."""
    sizes = sorted(p.stat().st_size for p in like.directory.rglob("*") if p.is_file())
    for largest in _steps(sizes[-1], count):
        out = place / "limited"
        shutil.rmtree(out, ignore_errors=True)
        ended = run(out, "--workers", "1", drawn=True, largest=largest)
        yield like.after(f"no file above {largest:,} bytes", out, ended, lambda: None)


def full_disk(like: Undisturbed, place: Path, count: int) -> Iterator[Fault]:
    """Run a study on a disk that is too small; a larger one is the cure.

    The disk is a tmpfs, so this process must be one that may mount.
    """
    total = sum(_blocks(path) for path in like.directory.rglob("*"))
    for size in _steps(total, count):
        disk = place / f"disk-{size}"
        disk.mkdir()
        _mount(disk, size)
        out = disk / "study"
        ended = run(out, "--workers", "1", drawn=True, log=place / "disk.log")
        larger = partial(_mount, disk, LARGE, "remount,")
        yield like.after(f"a disk of {size:,} bytes", out, ended, larger)
        subprocess.run(["umount", str(disk)], check=True)


def _mount(folder: Path, size: int, more: str = "") -> None:
    options = f"{more}size={size}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)


def _blocks(path: Path) -> int:
    return -(-path.stat().st_size // 4096) * 4096 if path.is_file() else 4096


def _steps(most: int, count: int) -> list[int]:
    """Return sizes from one page to the most, each a step of equal ratio above the last."""
    return sorted({round(4096 * (most / 4096) ** (i / max(1, count - 1))) for i in range(count)})


def two_runners(like: Undisturbed, place: Path, count: int, draw: random.Random) -> Iterator[Fault]:
    """Start a study twice at once, or nearly; one may be refused, and the other goes through."""
    for _ in range(count):
        out, wait = place / "shared", draw.uniform(0, like.seconds)
        shutil.rmtree(out, ignore_errors=True)
        one = Running(out, "--workers", "1")
        while spent([one.pid]) < wait and not one.over():
            time.sleep(PAUSE)
        two = Running(out, "--workers", "1")
        ended = [one.end(), two.end()]
        what = f"a second runner after {wait:.2f} s"
        bad = [e for e in ended if e.code and not (e.refused and "another process" in e.said)]
        lost = f"exit code {bad[0].code}: {bad[0].said[-1500:]}" if bad else like.differs(out)
        yield Fault(what, lost, refused=any(e.code for e in ended))
