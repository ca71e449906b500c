"""What a node of a cluster does of a study: a group, in a folder of its own.

Nodes need not share a file system. A node has a scratch folder that is a study's directory as any
other, with the records and checkpoints that its groups come from. What is written there goes to
the process that runs the study too, byte for byte, and only that process writes the study's own
directory.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import shutil
import socket
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from secateur import files, machine
from secateur.data.images import ImageData, Split
from secateur.errors import FileError, SecateurError
from secateur.study.executors.messages import of_event, packed, unpacked
from secateur.study.executors.turn import Turn
from secateur.study.executors.worker import task_of
from secateur.study.failure import told
from secateur.study.loading import load_task
from secateur.study.plan import groups
from secateur.study.reading import MATCHED, CorruptFile
from secateur.study.spec import Spec, options_of
from secateur.study.store import Store
from secateur.study.subject import Subject
from secateur.study.task import Task, classified

Message = dict[str, Any]
Send = Callable[[Message], None]
_KEPT = 86_400.0  # seconds after which a scratch folder of another run is left for good
_TASK = "task"  # the folder in a scratch folder that a task's file is put in


@dataclass(frozen=True, slots=True)
class Brief:
    """What all nodes are told of a study.

    `file` has the content of the task's file, by its name, where it is one; `run` names this run
    of the study, so that two runs at a time have folders of their own. `matched` is the file of
    the width that was measured, where it was.
    """

    task: Mapping[str, Any]
    spec: Mapping[str, Any]
    device: str
    run: str
    file: tuple[str, bytes] | None = None
    matched: bytes | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """A group to be done: which, what failed before, and what it comes from.

    `records` has the content of records, by the name of their file, and `missing` the names of
    those that are to be made. `networks` has the SHA-256 of checkpoints, and `sent` references to
    the content of those that the node is not known to have.
    """

    group: int
    failed: list[Any]
    records: Mapping[str, bytes]
    missing: tuple[str, ...]
    networks: Mapping[str, str]
    sent: Mapping[str, Any] = field(default_factory=dict)


def work(
    brief: Brief, node: str, order: Order, data: Mapping[str, Any] | None
) -> Iterator[list[Message]]:
    """Do a group on a node; yield what happens, several messages at a time where they come fast.

    The work is done in a thread, so that messages leave while it goes on.
    """
    told_of: queue.SimpleQueue[Message | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            _do(brief, node, order, data, told_of.put)
        except SecateurError as error:
            kind = "file" if isinstance(error, FileError) else "study"
            told_of.put({"fatal": kind, "text": f"on node {socket.gethostname()}: {error}"})
        except Exception as error:
            text = f"on node {socket.gethostname()}: {told(error)}"
            told_of.put({"fatal": "study", "text": text})
        finally:
            told_of.put(None)

    threading.Thread(target=run, daemon=True).start()
    more = True
    while more:
        messages = [told_of.get()]
        with suppress(queue.Empty):
            while messages[-1] is not None:
                messages.append(told_of.get_nowait())
        more = messages[-1] is not None
        yield [message for message in messages if message is not None]


def clear(brief: Brief, node: str) -> None:
    """Remove a run's scratch folder."""
    shutil.rmtree(_scratch(brief, node), ignore_errors=True)


def shared(images: ImageData) -> dict[str, Any]:
    """Return images as arrays, which all processes of a node then share in memory."""
    splits = {name: getattr(images, name) for name in ("train", "validation", "test")}
    return {
        "name": images.name,
        "splits": {n: (s.images.cpu().numpy(), s.labels.cpu().numpy()) for n, s in splits.items()},
        "classes": images.classes,
        "mean": images.mean,
        "std": images.std,
        "augmentation": images.augmentation,
    }


def _images(data: Mapping[str, Any]) -> ImageData:
    """Return the images of `shared`, where they are: nothing is copied, and nobody writes."""
    given = dict(data)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        for name, (pixels, labels) in given.pop("splits").items():
            given[name] = Split(torch.from_numpy(pixels), torch.from_numpy(labels))
    return ImageData(**given)


class _Scratch(Store):
    """A store on a node; what is written there is sent too."""

    def __init__(self, directory: Path, spec: Spec, send: Send) -> None:
        super().__init__(directory, spec)
        self._send = send

    def _put(self, path: Path, content: bytes | str) -> None:
        super()._put(path, content)
        raw = content.encode() if isinstance(content, str) else content
        self._send({"file": f"{path.parent.name}/{path.name}", "content": as_array(raw)})


def as_array(content: bytes) -> NDArray[np.uint8]:
    """Return bytes as uint8 [N], which Ray hands on without copies."""
    return np.frombuffer(content, np.uint8)


class _Post:
    """Where a process sends to: its turn outlives a group, and each group has its own end."""

    send: Send

    def __call__(self, message: Message) -> None:
        self.send(message)


_turns: dict[Path, tuple[Turn, _Post]] = {}
"""What this process has made of the study that it works for, by its scratch folder: the latest."""


def _do(brief: Brief, node: str, order: Order, data: Mapping[str, Any] | None, send: Send) -> None:
    folder = _scratch(brief, node)
    if lacking := _received(folder, order):
        send({"lacking": lacking})
        return

    def warn(message: Warning | str, *_: object, **__: object) -> None:
        send({"warning": str(message), "corrupt": isinstance(message, CorruptFile)})

    with warnings.catch_warnings():
        warnings.simplefilter("always", CorruptFile)
        warnings.showwarning = warn
        if folder not in _turns:
            if brief.matched is not None:
                files.write(folder / MATCHED, brief.matched)
            _turns.clear()
            _turns[folder] = _turn(brief, data, folder)
        turn, post = _turns[folder]
        post.send = send
        turn.failed = {unpacked(item) for item in order.failed}
        turn.failures = []
        spec = turn.subject.spec
        planned = groups(spec.options, spec.seeds, matched=turn.store.can_match)
        turn.do(planned[order.group])
        send({"ended": order.group, "failed": [packed(item) for item in turn.failed]})


def _turn(brief: Brief, data: Mapping[str, Any] | None, folder: Path) -> tuple[Turn, _Post]:
    """Make the task here, and whatever does its groups."""
    images = None if data is None else _images(data)
    task = _task(brief, images, folder)
    spec = Spec.of(task, options_of(brief.spec))
    if json.loads(spec.canonical()) != brief.spec:
        raise SecateurError(
            f"task {task.name!r} is another one there: its description or metric depends on more "
            "than its file; put the same files on all nodes"
        )
    subject = Subject(task, spec, machine.device(brief.device))
    if images is not None:
        subject.data = images.to(subject.device)
    post = _Post()
    return Turn(subject, _Scratch(folder, spec, post), lambda event: post(of_event(event))), post


def _task(brief: Brief, images: ImageData | None, folder: Path) -> Task:
    reference = brief.task
    if "load" not in reference:
        if images is None:
            return task_of(dict(reference))
        return classified(images, **{k: v for k, v in reference.items() if k != "data_dir"})
    where, _, name = reference["load"].rpartition(":")
    if brief.file is None:
        return load_task(reference["load"])
    path, content = Path(where), brief.file[1]
    if not (path.is_file() and path.read_bytes() == content):  # another machine's file
        path = folder / _TASK / brief.file[0]
        path.parent.mkdir(exist_ok=True)
        files.write(path, content)
    return load_task(f"{path}:{name}")


def _received(folder: Path, order: Order) -> list[str]:
    """Put in place what a group comes from; return what is not there and was not sent."""
    for name, content in order.records.items():
        path = folder / "records" / name
        if not (path.exists() and path.read_bytes() == content):
            files.write(path, content)
    for name in order.missing:  # one that was made here and has not arrived is made again
        (folder / "records" / name).unlink(missing_ok=True)
    lacking = []
    for name, sha256 in order.networks.items():
        path = folder / "checkpoints" / name
        if path.exists() and files.sha256_of(path) == sha256:
            continue
        if name not in order.sent:
            lacking.append(name)
            continue
        import ray

        content = ray.get(order.sent[name]).tobytes()
        if hashlib.sha256(content).hexdigest() != sha256:
            raise SecateurError(f"{name} arrived damaged; run the study again")
        files.write(path, content)
    return lacking


def _scratch(brief: Brief, node: str) -> Path:
    """Return a run's folder on a node; those that runs have left a day ago go.

    Raises:
        FileError: it cannot be made, or is somebody else's.
    """
    user = os.getuid() if hasattr(os, "getuid") else 0
    base = Path(tempfile.gettempdir()) / f"secateur-ray-{user}"
    folder = base / f"{brief.run}-{node[:16]}"
    try:
        base.mkdir(mode=0o700, exist_ok=True)
        if hasattr(os, "getuid") and base.lstat().st_uid != user:
            raise PermissionError(0, "it belongs to another user")
        for other in base.iterdir():
            if other != folder and time.time() - other.stat().st_mtime > _KEPT:
                shutil.rmtree(other, ignore_errors=True)
        for name in ("records", "checkpoints", "failures"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        os.utime(folder)
    except OSError as error:
        raise FileError(
            f"cannot use {folder} for a study: {error.strerror or error}; let TMPDIR name a "
            "folder that may be written to, where Ray is started"
        ) from error
    return folder
