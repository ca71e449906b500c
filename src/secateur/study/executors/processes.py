"""Groups of a study in several processes of this machine, one thread each."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import warnings
from collections.abc import Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import Any

from secateur.errors import StudyError
from secateur.study.executors.messages import event_of, line, packed, unpacked
from secateur.study.executors.side import Side
from secateur.study.plan import Group, Item, Observer
from secateur.study.reading import CorruptFile
from secateur.study.store import Store, UnwritableError
from secateur.study.subject import Subject

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
# glibc gives large tensors back to the system after every step, and fetching them again takes
# time; so let it keep them, where the user has not said otherwise
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(2**25),  # bytes; the most it takes
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "MALLOC_TOP_PAD_": str(2**27),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # in huge pages, where the system has some free
}
_START = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from secateur.study.executors.worker import main
main()
"""
_MOST_DEATHS = 3  # of processes in one study, until it is given up


def _path() -> list[str]:
    """Return where this process imports from, so that another one finds the very same."""
    return [str(Path(folder).resolve()) for folder in sys.path]


def started() -> subprocess.Popen[bytes]:
    """Start a process that waits to be told of a study, on its standard input."""
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _START, json.dumps(_path())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**KEEP_MEMORY, **os.environ, **ONE_THREAD},
    )


class _Worker:
    """A process, what it is doing, and the thread that hears it."""

    def __init__(self, study: dict[str, Any], heard: queue.SimpleQueue[Any]) -> None:
        self.group: int | None = None
        self.item: Item | None = None
        self.process = started()
        self._heard = heard
        self.tell(study)
        threading.Thread(target=self._hear, daemon=True).start()

    def tell(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line(message))
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has died, which is heard

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()

    def _hear(self) -> None:
        assert self.process.stdout is not None
        for text in self.process.stdout:
            try:
                message = json.loads(text)
            except ValueError:  # printed before it began to work, by what Python loads at its start
                sys.stderr.write(text.decode(errors="replace"))
            else:
                self._heard.put((self, message))
        self._heard.put((self, None))


def _died(side: Side, worker: _Worker) -> None:
    """Take in that a process ended by itself: what it was doing is a failure."""
    code = worker.process.wait()
    how = f"signal {-code}" if code < 0 else f"exit status {code}"
    error = StudyError(
        f"the process that did it died ({how}), perhaps because memory ran out; run the "
        "study again, with fewer --workers"
    )
    assert worker.group is not None
    item = worker.item or side.first_left(worker.group)
    if item is not None:
        side.fail(item, error)


def in_processes(
    subject: Subject,
    store: Store,
    observe: Observer,
    planned: Sequence[Group],
    workers: int,
    later: Set[int] = frozenset(),
) -> tuple[str, ...]:
    """Do every group in one of several processes; as `local.execute`.

    Groups at the places `later` are left out; no other one comes after them.

    Each process makes the task anew from its reference. What one of them was doing when it died
    is a failure of that item; the others go on, and so does another process in its place.
    """
    side, heard = Side(subject.spec, store, observe, planned), queue.SimpleQueue[Any]()
    study = {
        "task": subject.task.reference,
        "spec": subject.spec.as_json(),
        "device": str(subject.device),
        "directory": str(Path(store.directory).resolve()),
    }
    running: set[_Worker] = set()
    deaths = 0
    side.leave(later)
    side.look()

    def give(worker: _Worker) -> None:
        worker.group, worker.item = next(iter(side.ready()), None), None
        if worker.group is not None:
            side.begun.add(worker.group)
            failed = [packed(item) for item in side.failed]
            worker.tell({"group": worker.group, "failed": failed})

    try:
        while not side.over():
            idle = [worker for worker in running if worker.group is None]
            for worker in idle:
                give(worker)
            while len(running) < workers and side.ready():
                worker = _Worker(study, heard)
                running.add(worker)
                give(worker)
            worker, message = heard.get()
            if message is None:
                running.discard(worker)
                worker.stop()
                if worker.group is None:
                    continue
                deaths += 1
                _died(side, worker)
                if deaths > _MOST_DEATHS:
                    last = side.failures[-1] if side.failures else "run it with --workers 1"
                    raise StudyError(f"{deaths} processes of this study died; {last}")
                side.begun.discard(worker.group)  # the rest of it is done, or left out
            elif "event" in message:
                event = event_of(message)
                worker.item = event.item if event.kind in ("begin", "epoch") else None
                observe(event)
            elif "ended" in message:
                side.ended.add(message["ended"])
                side.failed |= {unpacked(item) for item in message["failed"]}
                side.failures += message["failures"]
                worker.group = None
            elif "warning" in message:
                kind = CorruptFile if message["corrupt"] else UserWarning
                warnings.warn(message["warning"], kind, 2)
            elif "fatal" in message:
                raise (UnwritableError if message["fatal"] == "file" else StudyError)(
                    message["text"]
                )
    finally:
        for worker in running:
            worker.stop()
    return tuple(side.failures)
