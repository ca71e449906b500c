"""A process that does groups of a study for another one, which tells it which.

It imports from where that one does, so that package and task are the same. It reads lines from
standard input, first what the study is, and writes lines to what was its standard output: what it
does, and how a group ended. What a task prints goes to standard error.
It ends when its input does, so that it never outlives the one it works for.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import Any, BinaryIO

from secateur import machine
from secateur.errors import FileError, SecateurError
from secateur.study.executors.messages import line, of_event, packed, unpacked
from secateur.study.executors.turn import Turn
from secateur.study.failure import told
from secateur.study.loading import load_task
from secateur.study.plan import groups
from secateur.study.reading import CorruptFile
from secateur.study.spec import Spec, options_of
from secateur.study.store import Store
from secateur.study.subject import Subject
from secateur.study.task import Task, classification


def task_of(reference: dict[str, Any]) -> Task:
    """Return the task that a `Task.reference` names."""
    if "load" in reference:
        return load_task(reference["load"])
    where = reference["data_dir"]
    given = {**reference, "data_dir": None if where is None else Path(where)}
    return classification(**given, progress=False)


def main() -> None:
    """Do what is asked for until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process is told, and ends this one
    output = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    asked: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    study = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_listen, args=(sys.stdin.buffer, asked), daemon=True).start()

    def warn(message: Warning | str, *_: object, **__: object) -> None:
        corrupt = isinstance(message, CorruptFile)
        _say(output, {"warning": str(message), "corrupt": corrupt})

    warnings.showwarning = warn
    try:
        _work(study, asked, output)
    except SecateurError as error:
        kind = "file" if isinstance(error, FileError) else "study"
        _say(output, {"fatal": kind, "text": str(error)})
    except BrokenPipeError:
        pass
    except Exception as error:
        _say(output, {"fatal": "study", "text": told(error)})


def _work(study: dict[str, Any], asked: queue.SimpleQueue[Any], output: BinaryIO) -> None:
    task = task_of(study["task"])
    spec = Spec.of(task, options_of(study["spec"]))
    if json.loads(spec.canonical()) != study["spec"]:
        raise SecateurError(
            f"task {task.name!r} is another one in a process of its own: its description or "
            "metric depends on more than its file; run the study with --workers 1"
        )
    subject = Subject(task, spec, machine.device(study["device"]))
    store = Store(Path(study["directory"]), spec)
    planned = groups(spec.options, spec.seeds, matched=store.can_match)
    turn = Turn(subject, store, lambda event: _say(output, of_event(event)))
    _say(output, {"ready": True})
    while True:
        wanted = asked.get()
        turn.failed = {unpacked(item) for item in wanted["failed"]}
        turn.failures = []
        turn.do(planned[wanted["group"]])
        failed = [packed(item) for item in turn.failed]
        _say(output, {"ended": wanted["group"], "failed": failed, "failures": turn.failures})


def _listen(source: BinaryIO, asked: queue.SimpleQueue[dict[str, Any]]) -> None:
    for text in source:
        asked.put(json.loads(text))
    os._exit(1)  # the process that it works for is gone


def _say(output: BinaryIO, message: dict[str, Any]) -> None:
    output.write(line(message))
