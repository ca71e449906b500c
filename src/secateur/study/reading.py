"""What a study's directory holds, read from outside; nothing is changed there.

`secateur.study.store` says what is where, and writes it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from secateur import files
from secateur.errors import StudyError, UsageError, printable
from secateur.study import matched
from secateur.study.hashed import digest, read_failure, read_hashed, read_record
from secateur.study.matched import Matched
from secateur.study.schema import MatchedFile, ShippedFile, SpecFile
from secateur.study.spec import FORMAT, options_of

Record = dict[str, Any]
Content = TypeVar("Content")
FOLDERS = ("records", "checkpoints", "failures")
LOCK = ".lock"
SHIPPED = "shipped.json"
SUMS = "SHA256SUMS"
MATCHED = "matched.json"
LEDGER = "tracking.jsonl"
"""What was logged elsewhere."""


class CorruptFile(UserWarning):
    """A file of a study was damaged; it is set aside and computed again."""


def read_spec(directory: Path) -> Record:
    """Return the spec of the study in a directory, as JSON values.

    Raises:
        StudyError: there is no study, or its spec cannot be read.
    """
    path = directory / "spec.json"
    try:
        spec = files.read_json(path)
        if isinstance(spec, dict) and spec.get("format") != FORMAT:
            raise StudyError(
                f"{directory} holds a study of format {spec.get('format')!r:.40}, of another "
                f"version of secateur than this one (format {FORMAT}); report it with that "
                "version, or choose another directory with --out"
            )
        files.validated(spec, SpecFile)
        options_of(spec)
    except UsageError as error:
        raise StudyError(f"cannot read {path}: {error}; put the file back") from None
    except (FileNotFoundError, NotADirectoryError):
        raise StudyError(
            f"{directory} holds no study (no spec.json); give the directory that "
            "`secateur study` wrote to"
        ) from None
    except (OSError, ValueError) as error:
        raise StudyError(
            f"cannot read {path}: {error}; put the file back, or start the study again elsewhere"
        ) from None
    return spec


def spec_hash(spec: Record) -> str:
    """Return the address of a spec given as JSON values."""
    return digest(spec)


def read_records(directory: Path, spec: str) -> tuple[list[Record], list[Record]]:
    """Return (trial records, stage records) of a study, sorted by name.

    Records that are damaged, of another spec, or in the place of another item's, are left out, each
    with a `CorruptFile` warning; nothing is changed on disk.
    """
    trials: list[Record] = []
    stages: list[Record] = []
    for _, record in _readable(directory / "records", lambda path: read_record(path, spec)):
        (trials if "trial" in record else stages).append(record)
    return trials, stages


def read_failures(directory: Path, spec: str) -> dict[str, str]:
    """Return item → why it could not be done, in one line each, sorted by item.

    Files that are damaged, or of another spec or item, are left out with a `CorruptFile` warning.
    """
    found = _readable(directory / "failures", lambda path: read_failure(path, spec))
    return {item: printable(failure["why"]) for item, failure in found}


def read_shipped(directory: Path, spec: str) -> Record | None:
    """Return what was measured of compiled networks; None where nothing was.

    A file that is damaged, or of another spec, is left out with a `CorruptFile` warning.
    """
    return _measured(directory / SHIPPED, spec, ShippedFile)


def read_matched(directory: Path, spec: str) -> Matched | None:
    """Return what dense network is as fast as a cut one; None where that was not measured.

    A file that is damaged, or of another spec, is left out with a `CorruptFile` warning.
    """
    content = _measured(directory / MATCHED, spec, MatchedFile)
    return None if content is None else matched.of_json(content)


def _measured(path: Path, spec: str, kind: type[ShippedFile | MatchedFile]) -> Record | None:
    if not path.exists():
        return None
    try:
        content = read_hashed(path)
        if content.pop("spec", None) != spec:
            raise ValueError("it belongs to another spec")
        files.validated(content, kind)
    except (OSError, ValueError) as error:
        warnings.warn(printable(f"{path} is left out: {error}"), CorruptFile, 3)
        return None
    return content


def _readable(folder: Path, read: Callable[[Path], Content]) -> Iterator[tuple[str, Content]]:
    """Yield the items that a folder has a file of, and what is read of it; pass bad files over."""
    for path in sorted(folder.glob("*.json")):
        try:
            content = read(path)
        except (OSError, ValueError) as error:
            warnings.warn(printable(f"{path} is left out: {error}"), CorruptFile, 3)
        else:
            yield path.stem, content
