"""Groups of a study in several processes of this machine, one thread each."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from secateur.errors import StudyError
from secateur.study.executors.messages import event_of, line, packed, unpacked
from secateur.study.plan import Event, Group, Item, Observer, epochs
from secateur.study.store import CorruptFile, Store, UnwritableError
from secateur.study.subject import Subject

_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
# glibc gives large tensors back to the system after every step, and fetching them again takes
# time; so let it keep them, where the user has not said otherwise
_KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(2**25),  # bytes; the most it takes
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "MALLOC_TOP_PAD_": str(2**27),
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


class _Worker:
    """A process, what it is doing, and the thread that hears it."""

    def __init__(self, study: dict[str, Any], heard: queue.SimpleQueue[Any]) -> None:
        self.group: int | None = None
        self.item: Item | None = None
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START, json.dumps(_path())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**_KEEP_MEMORY, **os.environ, **_ONE_THREAD},
        )
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


class _Side:
    """The groups that are done, under way and to come, and what became of them."""

    def __init__(
        self, subject: Subject, store: Store, observe: Observer, planned: Sequence[Group]
    ) -> None:
        self.store, self.observe, self.planned = store, observe, planned
        self.failed: set[Item] = set()
        self.failures: list[str] = []
        self.ended: set[int] = set()
        self.begun: set[int] = set()
        options = subject.spec.options
        self._owner = {item: at for at, group in enumerate(planned) for item in group.items}
        costs = [sum(epochs(options, item) for item in group.items) for group in planned]
        self._left = list(costs)  # of a group and the dearest row of groups that wait for it
        for at in reversed(range(len(planned))):
            for stage in planned[at].after:
                before = self._owner[stage]
                self._left[before] = max(self._left[before], costs[before] + self._left[at])
        self.study = {
            "task": subject.task.reference,
            "spec": subject.spec.as_json(),
            "device": str(subject.device),
            "directory": str(Path(store.directory).resolve()),
        }

    def look(self) -> None:
        """Find the groups of which everything is done already."""
        for at, group in enumerate(self.planned):
            records = {item: self.store.read(item) for item in group.items}
            if None not in records.values():
                self.ended.add(at)
                self.begun.add(at)
                for item, record in records.items():
                    self.observe(Event("found", item, record))

    def next(self) -> int | None:
        """Return the group to begin: of those that may, the one that most depends on."""
        ready = [
            at
            for at, group in enumerate(self.planned)
            if at not in self.begun
            and all(self._owner[stage] in self.ended for stage in group.after)
        ]
        return max(ready, key=lambda at: (self._left[at], -at), default=None)

    def died(self, worker: _Worker) -> None:
        """Take in that a process ended by itself: what it was doing is a failure."""
        code = worker.process.wait()
        how = f"signal {-code}" if code < 0 else f"exit status {code}"
        error = StudyError(
            f"the process that did it died ({how}), perhaps because memory ran out; run the "
            "study again, with fewer --workers"
        )
        item = worker.item or self._first_left(worker)
        if item is not None:
            self.failures.append(self.store.write_failure(item, error))
            self.failed.add(item)
            self.observe(Event("failed", item))

    def _first_left(self, worker: _Worker) -> Item | None:
        """Return what a process was about to do, which it has not said."""
        assert worker.group is not None
        left = (i for i in self.planned[worker.group].items if i not in self.failed)
        return next((item for item in left if self.store.read(item) is None), None)


def in_processes(
    subject: Subject, store: Store, observe: Observer, planned: Sequence[Group], workers: int
) -> tuple[str, ...]:
    """Do every group in one of several processes; as `local.execute`.

    Each process makes the task anew from its reference. What one of them was doing when it died
    is a failure of that item; the others go on, and so does another process in its place.
    """
    side, heard = _Side(subject, store, observe, planned), queue.SimpleQueue[Any]()
    running: set[_Worker] = set()
    deaths = 0
    side.look()

    def give(worker: _Worker) -> None:
        worker.group, worker.item = side.next(), None
        if worker.group is not None:
            side.begun.add(worker.group)
            failed = [packed(item) for item in side.failed]
            worker.tell({"group": worker.group, "failed": failed})

    try:
        while len(side.ended) < len(planned):
            idle = [worker for worker in running if worker.group is None]
            for worker in idle:
                give(worker)
            while len(running) < workers and side.next() is not None:
                worker = _Worker(side.study, heard)
                running.add(worker)
                give(worker)
            worker, message = heard.get()
            if message is None:
                running.discard(worker)
                worker.stop()
                if worker.group is None:
                    continue
                deaths += 1
                side.died(worker)
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
