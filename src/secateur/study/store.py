"""Where a study lives on disk: its spec, its records, its checkpoints.

    spec.json                  the frozen spec
    records/<id>.json          one per stage and per trial; one that exists is done
    checkpoints/<id>.safetensors
    shipped.json               what was measured of compiled networks
    matched.json               the width of the dense network that is as fast as a cut one
    failures/<id>.json         what went wrong with the items that could not be done

    SHA256SUMS                 of all that the last report was made from, and of the report

A record says whose it is, and carries the SHA-256 of its own content, a stage's record that of its
checkpoint too. What does not match is named, set aside as `<name>.corrupt`, and computed again.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import filelock

from secateur import files
from secateur.errors import FileError, StudyError
from secateur.study import checkpoints
from secateur.study.checkpoints import Saved
from secateur.study.failure import told, trace
from secateur.study.hashed import digest, read_record
from secateur.study.matched import Matched
from secateur.study.plan import AS_FAST, Item, Stage
from secateur.study.reading import (
    FOLDERS,
    LOCK,
    MATCHED,
    SHIPPED,
    SUMS,
    CorruptFile,
    read_failures,
    read_matched,
    read_spec,
)
from secateur.study.spec import Spec, differences, is_smaller

Record = dict[str, Any]
Content = TypeVar("Content")


class UnwritableError(FileError):
    """A file of the study itself cannot be written, for example on a full disk: it ends there."""


class Store:
    """A study directory, open for one process at a time; use it in a `with` statement."""

    def __init__(self, directory: Path, spec: Spec) -> None:
        self.directory = directory
        self._spec = spec
        self._lock = filelock.FileLock(directory / LOCK, timeout=0)

    def __enter__(self) -> Store:
        """Make or open the directory and lock it.

        Raises:
            FileError: the directory cannot be made or written.
            StudyError: it holds a study of another spec, or another process works on it.
        """
        try:
            for name in FOLDERS:
                (self.directory / name).mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except filelock.Timeout:
            raise StudyError(
                f"another process is working on the study in {self.directory}; "
                "wait for it to end, or give this one another directory with --out"
            ) from None
        except OSError as error:
            raise FileError(
                f"cannot use {self.directory} as a study directory: {error.strerror or error}; "
                "choose one that you may write to with --out"
            ) from error
        try:
            self._sweep()
            self._claim()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()

    def _sweep(self) -> None:
        """Remove what a killed run left half-written; only the lock's holder writes there."""
        for name in FOLDERS:
            files.sweep(self.directory / name, idle=0, older=True)
        # A report may be being rebuilt just now, which needs no lock.
        names = ["spec.json", SHIPPED, MATCHED, SUMS, "report.html", "results.csv", "table.tex"]
        names += [
            f"{chart}.{kind}" for chart in ("curve", "latency") for kind in ("svg", "png", "pdf")
        ]
        files.sweep(self.directory, *names, idle=60, older=True)

    def _claim(self) -> None:
        path = self.directory / "spec.json"
        if path.exists():
            here = read_spec(self.directory)
            if here != json.loads(self._spec.canonical()):  # as a file gives it: lists, not tuples
                what = ", ".join(differences(here, self._spec.as_json()))
                remedy = (
                    f"choose another directory with --out, and take its seeds over with --grow "
                    f"{self.directory}"
                    if is_smaller(here, self._spec)
                    else "choose another directory with --out, or give the options it was started "
                    "with"
                )
                raise StudyError(
                    f"{self.directory} holds a study of another spec (they differ in {what}); "
                    f"{remedy}"
                )
        else:
            files.write(path, json.dumps(self._spec.as_json(), indent=2, sort_keys=True) + "\n")

    def read(self, item: Item) -> Record | None:
        """Return the record of an item, or None when it has yet to be made.

        A record that is damaged, or of another item, seed or study, is named in a `CorruptFile`
        warning, set aside, and counts as not made.
        """
        path = self._record(item)
        if path.exists():
            try:
                return read_record(path, self._spec.hash, item)
            except (OSError, ValueError) as error:
                _set_aside(path, str(error))
        return None

    def write(self, item: Item, record: Mapping[str, Any]) -> None:
        """Write a record; from then on the item is done.

        Raises:
            UnwritableError: it cannot be written.
        """
        content = {"spec": self._spec.hash, **record}
        self._put(self._record(item), json.dumps({**content, "sha256": digest(content)}) + "\n")
        self._failure(item).unlink(missing_ok=True)

    def write_failure(self, item: Item, error: BaseException) -> str:
        """Keep why an item could not be done; it is tried again when the study is.

        Returns:
            Why, in one line.

        Raises:
            UnwritableError: it cannot be kept.
        """
        why = told(error)
        content = {
            "spec": self._spec.hash,
            "failed": item.id,
            "why": why,
            "traceback": trace(error),
        }
        whole = {**content, "sha256": digest(content)}
        self._put(self._failure(item), json.dumps(whole) + "\n")
        return self.said_of(item, why)

    def said_of(self, item: Item, why: str) -> str:
        """Return the line that says why an item could not be done, and where that is kept."""
        return f"{item.id}: {why} (recorded in {self._failure(item)})"

    def why_failed(self, item: Item) -> str | None:
        """Return why an item without a record could not be done, where that was tried."""
        if self.read(item) is not None:
            return None
        return read_failures(self.directory, self._spec.hash).get(item.id)

    def save_network(self, stage: Stage, saved: Saved) -> str:
        """Write a stage's checkpoint and return its SHA-256, which belongs in its record.

        Raises:
            UnwritableError: it cannot be written.
        """
        content = checkpoints.content(saved)
        self._put(self._checkpoint(stage), content)
        return hashlib.sha256(content).hexdigest()

    def load_network(self, stage: Stage) -> Saved | None:
        """Return what a stage has left, or None when it must be trained (again).

        A checkpoint that does not match its record is named in a warning and never used.
        """
        return self._of_checkpoint(stage, checkpoints.read)

    def packed_record(self, item: Item) -> bytes:
        """Return the file of a record that is there, for another machine's store to `take`."""
        return self._record(item).read_bytes()

    def packed_network(self, stage: Stage) -> bytes | None:
        """Return the file of a stage's checkpoint; None, and a warning, as of `load_network`."""
        return self._of_checkpoint(stage, Path.read_bytes)

    def take(self, name: str, content: bytes) -> None:
        """Write a file that another machine's store has written, such as "records/<id>.json".

        Raises:
            StudyError: a store writes no file of that name.
            UnwritableError: it cannot be written.
        """
        folder, _, file = name.partition("/")
        if folder not in FOLDERS or Path(file).name != file:
            raise StudyError(f"another machine sent {name[:120]!r}, which is no file of a study")
        self._put(self.directory / folder / file, content)
        if folder == "records":
            (self.directory / "failures" / file).unlink(missing_ok=True)

    def write_shipped(self, content: Mapping[str, Any]) -> None:
        """Write what was measured of compiled networks.

        Raises:
            UnwritableError: it cannot be written.
        """
        self._put_measured(SHIPPED, content)

    def write_matched(self, content: Mapping[str, Any]) -> None:
        """Write what dense network is as fast as a cut one.

        Raises:
            UnwritableError: it cannot be written.
        """
        self._put_measured(MATCHED, content)

    def matched(self) -> Matched | None:
        """Return what dense network is as fast as a cut one; None where that is not known."""
        return read_matched(self.directory, self._spec.hash)

    def restore_matched(self, seeds: Sequence[int], keep: float) -> None:
        """Write what dense network is as fast anew, where that is lost and one was trained."""
        if not keep or self.matched() is not None:
            return
        for seed in seeds:
            record = self.read(Stage(seed, AS_FAST, keep))
            if record is not None and record.get("matched"):
                self.write_matched(record["matched"])
                return

    @property
    def can_match(self) -> bool:
        """Whether a width is known of a dense network that is as fast as a cut one."""
        found = self.matched()
        return found is not None and found.width is not None

    def packed_matched(self) -> bytes | None:
        """Return the file that `write_matched` wrote, for another machine; None where none is."""
        return (self.directory / MATCHED).read_bytes() if self.can_match else None

    def _put_measured(self, name: str, content: Mapping[str, Any]) -> None:
        whole = {"spec": self._spec.hash, **content}
        self._put(self.directory / name, json.dumps({**whole, "sha256": digest(whole)}) + "\n")

    def _of_checkpoint(self, stage: Stage, read: Callable[[Path], Content]) -> Content | None:
        """Return what is read of a checkpoint that matches its record; None where there is none."""
        record, path = self.read(stage), self._checkpoint(stage)
        if record is None:
            return None
        try:
            if files.sha256_of(path) != record["checkpoint"]:
                raise ValueError("its content does not match the hash in its record")
            return read(path)
        except OSError as error:
            warnings.warn(f"{path} is gone ({error.strerror}); training again", CorruptFile, 3)
        except (FileError, ValueError) as error:
            _set_aside(path, str(error))
        return None

    def _put(self, path: Path, content: bytes | str) -> None:
        """Write any file of the study: the one place where that is done."""
        try:
            files.write(path, content)
        except FileError as error:
            raise UnwritableError(str(error)) from error

    def _record(self, item: Item) -> Path:
        return self.directory / "records" / f"{item.id}.json"

    def _checkpoint(self, stage: Stage) -> Path:
        return self.directory / "checkpoints" / f"{stage.id}.safetensors"

    def _failure(self, item: Item) -> Path:
        return self.directory / "failures" / f"{item.id}.json"


def _set_aside(path: Path, why: str) -> None:
    aside = path.with_name(path.name + ".corrupt")
    try:
        path.replace(aside)
    except OSError as error:
        raise UnwritableError(
            f"{path} is corrupt ({why}) and cannot be set aside: {error.strerror or error}; "
            "delete it, or let the folder be written to"
        ) from error
    warnings.warn(
        f"{path} is corrupt ({why}); kept as {aside.name}, computing it again", CorruptFile, 3
    )
