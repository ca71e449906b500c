"""`secateur verify`: is a file, or every file of a folder, what was written?"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from secateur import files
from secateur.compiler import artifact, bundle, targets
from secateur.errors import FileError, StudyError, UsageError
from secateur.files import Finding
from secateur.pruning.files import hub, packed, reading, stage_file
from secateur.pruning.selecting.masks import Masks
from secateur.study import checking, checkpoints
from secateur.study.command import command_of
from secateur.study.hashed import read_hashed
from secateur.study.reading import read_spec

_PLAIN = (None, "pt", "np", "tf", "flax", "mlx")
"""What other libraries write as the format of safetensors."""
_OURS = ("description", "digest", "sha256", "state")
"""Entries of metadata that nobody else writes."""
KINDS = (
    "a study directory, a folder of C, a folder that save_pretrained wrote, a .json record, a "
    ".safetensors file or an engine"
)
_SHELL = "secateur study "
_COPY = "copy the file again, or make it again"


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found.

    Attributes:
        path: that was asked for.
        kind: what it is, such as "study" or "engine".
        findings: of every file.
        again: the command that makes anew what is lost or still to be made, where there is one.
    """

    path: Path
    kind: str
    findings: tuple[Finding, ...]
    again: str = ""

    @property
    def whole(self) -> bool:
        """Whether nothing is damaged or missing."""
        return not any(finding.fault for finding in self.findings)

    def document(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {
            "path": str(self.path),
            "kind": self.kind,
            "whole": self.whole,
            "files": [asdict(finding) for finding in self.findings],
            "again": self.again,
        }

    def lines(self) -> list[str]:
        """Return what it comes to: how many files are whole, and a line for each of the others."""
        states = [finding.state for finding in self.findings]
        count = states.count("whole") + states.count("outdated")
        match = f"{count:,} of {len(states):,} files match their hashes"
        said = [f"{self.kind} {self.path}: {match}"]
        said += [f"{f.state}: {f.path}: {f.why}" for f in self.findings if f.why]
        needed = self.again and any("study again" in f.why for f in self.findings)
        return [*said, f"to run the study again: {self.again}"] if needed else said


def verify(path: Path) -> Verified:
    """Compare a file with the hash that it carries, or all files of a folder with theirs.

    Args:
        path: a study directory, a folder of C or of the Hub's kind, a record, a safetensors file
            or an engine.

    Raises:
        UsageError: it is something else.
        FileError: there is nothing.
        StudyError: it is a study of another version of secateur.
    """
    if path.is_dir():
        return _folder(path)
    if path.suffix == ".json" and path.exists():
        return _file(path, "record", _record)
    if path.suffix == ".safetensors" and path.exists():
        return _safetensors(path)
    if path.is_file() and (path.suffix in targets.SUFFIXES.values() or artifact.is_engine(path)):
        return _file(path, "engine", _engine)
    if not path.exists():
        raise FileError(f"cannot verify {path}: there is no such file or folder; give {KINDS}")
    raise UsageError(f"cannot verify {path}: give {KINDS}")


def _folder(path: Path) -> Verified:
    if (path / checking.SPEC).exists() or (path / "records").is_dir():
        return Verified(path, "study", tuple(checking.check(path)), _command(path))
    if (path / bundle.MANIFEST).exists():
        return Verified(path, "folder of C", tuple(bundle.check(path)))
    if (path / hub.CONFIG).exists():
        return Verified(path, "folder of a model", tuple(_model(path)))
    raise UsageError(
        f"cannot verify {path}: it holds no {checking.SPEC}, {bundle.MANIFEST} or {hub.CONFIG}, "
        "so it is no folder of secateur's; give one that is"
    )


def _command(directory: Path) -> str:
    """Return the command that goes on with a study, where its spec can be read."""
    try:
        command = command_of(read_spec(directory))
    except StudyError:
        return ""
    if not command.startswith(_SHELL):
        return command
    return f"{command} --out {shlex.quote(str(directory))}"


def _model(folder: Path) -> Iterator[Finding]:
    again = "copy the folder again, or write it again with save_pretrained"
    try:
        hashes = hub.hashes_of(folder)
    except FileError as error:
        yield Finding(hub.CONFIG, "damaged", _why(error, folder / hub.CONFIG))
        return
    why = "it has the hashes of the others" if hashes else "it has no hashes of files of weights"
    yield Finding(hub.CONFIG, "not hashed", why)
    for name, digest in hashes.items():
        yield files.compared(folder, name, digest, again)
    for path in sorted(folder.glob("*.safetensors")):
        if path.name not in hashes:
            yield Finding(path.name, "not hashed", f"{hub.CONFIG} does not list it")


def _file(path: Path, kind: str, look: Callable[[Path], Finding]) -> Verified:
    try:
        finding = look(path)
    except FileError as error:
        finding = Finding(path.name, "damaged", _why(error, path))
    except (OSError, ValueError) as error:
        finding = files.unread(path.name, error, _COPY)
    return Verified(path, kind, (finding,))


def _why(error: FileError, path: Path) -> str:
    """Return what an error of `files.refusing` says beside the path."""
    return str(error.args[0]).removeprefix(f"cannot read {path}: ")


def _record(path: Path) -> Finding:
    read_hashed(path)
    return Finding(path.name, "whole")


def _engine(path: Path) -> Finding:
    artifact.read(path)
    return Finding(path.name, "whole")


def _safetensors(path: Path) -> Verified:
    found = None if path.is_dir() else _format(path)
    kinds = {
        files.MODEL: ("model", _packed),
        files.MASKS: ("masks", _masks),
        files.STAGE: ("stage of a training", _stage),
    }
    return _file(path, *kinds.get(found or "", ("safetensors", _tensors)))


def _format(path: Path) -> str | None:
    try:
        return files.format_of(path)
    except (OSError, ValueError):
        return None


def _packed(path: Path) -> Finding:
    info = reading.read_info(path)
    reading.values(path, info, packed.unpack, set())
    return Finding(path.name, "whole")


def _masks(path: Path) -> Finding:
    Masks.load(path)
    return Finding(path.name, "whole")


def _stage(path: Path) -> Finding:
    stage_file.read(path)
    return Finding(path.name, "not hashed", "stages carry no hash; every tensor can be read")


def _tensors(path: Path) -> Finding:
    """Look at a file of plain tensors, or at a checkpoint in its study."""
    study = path.absolute().parent.parent
    record = study / "records" / f"{path.stem}.json"
    if path.absolute().parent.name == "checkpoints" and record.exists():
        try:
            digest = str(read_hashed(record)["checkpoint"])
        except (KeyError, OSError, ValueError):
            why = f"{record.name}, which has its hash, is damaged; verify {study}"
            return Finding(path.name, "not hashed", why)
        return files.compared(path.parent, path.name, digest, "run the study again")
    if checkpoints.is_packed(path):
        checkpoints.read(path)
        return Finding(
            path.name, "not hashed", "its hash is in its study; every tensor can be read"
        )
    with files.open_tensors(path, framework="torch") as tensors:
        found = tensors.metadata.get("format")
        if found not in _PLAIN or any(entry in tensors.metadata for entry in _OURS):
            raise ValueError(f"its format is {found!r:.80}, which this secateur does not know")
        for _ in tensors.items():
            pass
    return Finding(path.name, "not hashed", "it carries no hash; every tensor can be read")
