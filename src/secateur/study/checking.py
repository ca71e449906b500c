"""Whether the files of a study are what was written, each against its hash.

Records and measurements carry the hash of their own content, a stage's record that of its
checkpoint, and all records that of the spec. `SHA256SUMS`, which `sha256sum -c` reads too, has
those of the last report and of what it was made from: by it, a record that is lost is told from one
that is still to be made. Before the first report a stage is known to be lost by what was made from
it.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from secateur import files
from secateur.errors import StudyError
from secateur.files import Finding
from secateur.files.reading import beginning
from secateur.study import report
from secateur.study.hashed import Record, read_failure, read_hashed, read_record
from secateur.study.options import Options
from secateur.study.plan import AS_FAST, Item, Stage, Trial, items, needs
from secateur.study.reading import (
    FOLDERS,
    LEDGER,
    LOCK,
    MATCHED,
    SHIPPED,
    SUMS,
    CorruptFile,
    read_matched,
    read_spec,
    spec_hash,
)
from secateur.study.schema import ITEMS
from secateur.study.spec import FORMAT, options_of

SPEC = "spec.json"
_LINE = re.compile(r"(?P<digest>[0-9a-f]{64})  (?P<name>[^\\\0]+)")
_LARGEST = 300 * ITEMS  # bytes of SHA256SUMS
_FEW = 3  # names in a message
_AGAIN = "run the study again, which makes it anew"
_REPORT = "`secateur report` on the directory writes it anew"
_NOT_OURS = "it is no file of this study, and in no figure; keep or delete it"
_BACK = "put it back from a copy"
_MEASURED = {
    SHIPPED: "run the study again with --measure, which measures anew",
    MATCHED: "put it back from a copy, or run the study again with --measure",
}


def write_sums(directory: Path, trials: Iterable[Record], stages: Iterable[Record]) -> None:
    """Write SHA256SUMS, after a report was made from these records.

    Raises:
        FileError: it cannot be written.
    """
    stages = list(stages)
    digests = {_checkpoint(_item(stage)): str(stage["checkpoint"]) for stage in stages}
    records = sorted(_record(_item(record)) for record in (*trials, *stages))
    failures = (f"failures/{path.name}" for path in _files(directory, "failures", ".json"))
    for name in (SPEC, *records, *failures, SHIPPED, MATCHED, *report.NAMES):
        if (directory / name).is_file():
            digests[name] = files.sha256_of(directory / name)
    files.write(directory / SUMS, "".join(f"{sha}  {name}\n" for name, sha in digests.items()))


def check(directory: Path) -> Iterator[Finding]:
    """Compare every file of a study with its hash; nothing is changed.

    Args:
        directory: with a spec.json, or with records of which that is lost.

    Raises:
        StudyError: it is a study of another version of secateur.
    """
    sums, found = _sums(directory)
    spec, address, finding = _spec(directory, sums)
    options = options_of(spec) if spec else None
    planned = _planned(directory, options, address) if options and address else []
    ours = {item.id for item in planned}
    found += [finding, *_made(directory, address, sums, ours)]
    failures = _files(directory, "failures", ".json")
    found += [_failure(directory, path, address, sums) for path in failures]
    for name, again in _MEASURED.items():
        if (directory / name).exists():
            found.append(_measured(directory, name, address, again))
    if (directory / LEDGER).exists():
        found.append(Finding(LEDGER, "not hashed", "it grows while the study is followed"))
    found += _report(directory, sums)
    yield from (_unplanned(finding, ours) if ours else finding for finding in found)
    spoken_of = {finding.path for finding in found}
    for name in sums:
        if name not in spoken_of and not _was_tried_again(directory, name):
            yield Finding(name, "missing", f"it was there for the last report; {_AGAIN}")
    if options:
        lost = _lost(directory, options, planned, sums)
        yield from lost
        yield from _undone(directory, planned, {*sums, *(finding.path for finding in lost)})
    yield from _extra(directory, spoken_of)


def _made(
    directory: Path, address: str | None, sums: Mapping[str, str], ours: Container[str]
) -> Iterator[Finding]:
    """Yield what is found of records and checkpoints."""
    covered = set()
    for path in _files(directory, "records", ".json"):
        name = f"records/{path.name}"
        try:
            record = read_record(path, address) if address else read_hashed(path)
        except (OSError, ValueError) as error:
            yield files.unread(name, error, _AGAIN)
            continue
        yield _dated(directory, name, sums)
        if "checkpoint" in record and address and (not ours or path.stem in ours):
            covered.add(checkpoint := _checkpoint(_item(record)))
            both = f"delete {name} and run the study again, which makes both anew"
            yield files.compared(directory, checkpoint, record["checkpoint"], both)
    for path in _files(directory, "checkpoints", ".safetensors"):
        if (name := f"checkpoints/{path.name}") in covered:
            continue
        if name in sums:
            yield files.compared(directory, name, sums[name], _AGAIN)
        else:
            yield Finding(name, "not hashed", f"no record of a stage has its hash; {_AGAIN}")
    for folder in ("records", "checkpoints"):
        for path in _files(directory, folder, ".corrupt"):
            aside = "an earlier run set it aside as damaged; delete it when you have seen it"
            yield Finding(f"{folder}/{path.name}", "not hashed", aside)


def _spec(directory: Path, sums: Mapping[str, str]) -> tuple[Record | None, str | None, Finding]:
    """Return the spec and its address, None where they are lost, and what is found of its file."""
    said = Counter(filter(None, map(_address, _files(directory, "records", ".json"))))
    usual = said.most_common(1)[0][0] if said else None
    listed = SPEC in sums or not (directory / SPEC).exists()
    finding = files.compared(directory, SPEC, sums.get(SPEC, ""), _BACK) if listed else None
    if finding and finding.fault:
        return None, usual, finding
    try:
        spec = read_spec(directory)
    except StudyError as error:
        if _is_of_another_version(directory):
            raise
        why = error.args[0].removeprefix(f"cannot read {directory / SPEC}: ")
        return None, usual, files.unread(SPEC, ValueError(why))
    address = spec_hash(spec)
    if finding is None and usual not in (None, address):
        why = f"the records are of a study with the address {usual}; {_BACK}"
        return None, usual, Finding(SPEC, "damaged", why)
    if finding is None and usual is None:
        finding = Finding(SPEC, "not hashed", "there is no record that names its hash")
    return spec, address, finding or Finding(SPEC, "whole")


def _is_of_another_version(directory: Path) -> bool:
    with suppress(OSError, ValueError):
        return bool(files.read_json(directory / SPEC).get("format") != FORMAT)
    return False


def _address(record: Path) -> str | None:
    """Return the address of the spec that a record names, where it is whole."""
    with suppress(OSError, ValueError):
        return str(read_hashed(record).get("spec", "")) or None
    return None


def _dated(directory: Path, name: str, sums: Mapping[str, str]) -> Finding:
    """Return what a record that is whole is, compared with the last report."""
    if name in sums and files.compared(directory, name, sums[name], "").fault:
        return Finding(name, "outdated", f"it is newer than the report; {_REPORT}")
    return Finding(name, "whole")


def _failure(directory: Path, path: Path, address: str | None, sums: Mapping[str, str]) -> Finding:
    name = f"failures/{path.name}"
    try:
        hashed = "sha256" in files.read_json(path)
        if address:
            read_failure(path, address)
    except (OSError, ValueError) as error:
        return files.unread(name, error, "run the study again, which tries the item again")
    if hashed:
        return _dated(directory, name, sums)
    return Finding(name, "not hashed", "an earlier version of secateur wrote it")


def _planned(directory: Path, options: Options, address: str) -> list[Item]:
    """Return what a study does: with a dense network as fast, where its width was measured."""
    trained = any(f"_{AS_FAST}_" in path.name for path in _files(directory, "records", ".json"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CorruptFile)  # it is said of the file itself
        found = read_matched(directory, address)
    known = found is not None and found.width is not None
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    return list(items(options, tuple(seeds), matched=trained or known))


def _measured(directory: Path, name: str, address: str | None, again: str) -> Finding:
    try:
        content = read_hashed(directory / name)
        if address and content.get("spec") != address:
            raise ValueError("it belongs to another spec")
    except (OSError, ValueError) as error:
        return files.unread(name, error, again)
    return Finding(name, "whole")


def _sums(directory: Path) -> tuple[dict[str, str], list[Finding]]:
    """Return name → SHA-256 of what the last report listed, and what is wrong with the list."""
    if not (directory / SUMS).exists():
        return {}, []
    sums: dict[str, str] = {}
    try:
        text = beginning(directory / SUMS, _LARGEST).decode()
        if not text.endswith("\n"):
            raise ValueError("it ends within a line")
        for number, line in enumerate(text.split("\n")[:-1], 1):
            match = _LINE.fullmatch(line)
            if not match or not _is_ours(match["name"]):
                raise ValueError(f"line {number} is not a hash and a file of a study")
            sums[match["name"]] = match["digest"]
        if lacking := [n for n in report.NAMES if n not in sums and (directory / n).exists()]:
            raise ValueError(f"it does not list {', '.join(lacking)}")
    except (OSError, ValueError) as error:
        return sums, [files.unread(SUMS, error, _REPORT)]
    return sums, [Finding(SUMS, "whole")]


def _is_ours(name: str) -> bool:
    """Return whether a name is of a file that a study has; none leads out of its directory."""
    parts = PurePosixPath(name).parts
    if len(parts) == 1:
        return name in (SPEC, SHIPPED, MATCHED, *report.NAMES)
    return len(parts) == 2 and parts[0] in FOLDERS and parts[1] != ".."


def _report(directory: Path, sums: Mapping[str, str]) -> Iterator[Finding]:
    for name in report.NAMES:
        if name in sums:
            yield files.compared(directory, name, sums[name], _REPORT)
        elif (directory / name).exists() and not (directory / SUMS).exists():
            yield Finding(name, "not hashed", f"there is no {SUMS}; {_REPORT}, with one")


def _was_tried_again(directory: Path, name: str) -> bool:
    """Return whether a failure is gone because its item was done since."""
    folder, _, file = name.partition("/")
    return folder == "failures" and (directory / "records" / file).exists()


def _unplanned(finding: Finding, ours: Container[str]) -> Finding:
    """Return what was found of a file, or that it is of an item that the study does not have."""
    folder, _, file = finding.path.partition("/")
    item = file.removesuffix(".json").removesuffix(".safetensors")
    if folder not in FOLDERS or item in ours or file.endswith(".corrupt") or finding.fault:
        return finding
    return Finding(finding.path, "extra", _NOT_OURS)


def _lost(
    directory: Path, options: Options, planned: Sequence[Item], sums: Mapping[str, str]
) -> list[Finding]:
    """Return the records of stages that are gone, though something was made from them."""
    there = {item for item in planned if (directory / _record(item)).exists()}
    behind = {stage for item in there for stage in needs(options, item)} - there
    names = sorted(_record(stage) for stage in behind)
    why = f"it was there when others were made from it; {_AGAIN}"
    return [Finding(name, "missing", why) for name in names if name not in sums]


def _undone(directory: Path, planned: Sequence[Item], known: Container[str]) -> Iterator[Finding]:
    left = [
        item.id
        for item in planned
        if not (directory / (name := _record(item))).exists() and name not in known
    ]
    if left:
        names = ", ".join(left[:_FEW]) + (", ..." if left[_FEW:] else "")
        lost = "" if (directory / SUMS).exists() else ", or is lost"
        yield Finding(
            "records",
            "undone",
            f"the record of {len(left):,} of {len(planned):,} items is still to be made{lost} "
            f"({names}); run the study again to go on",
        )


def _extra(directory: Path, known: Container[str]) -> Iterator[Finding]:
    """Yield what a study has no place for, and what runs leave that are killed."""
    for folder in (directory, *(directory / name for name in FOLDERS)):
        with suppress(OSError):
            for path in sorted(folder.iterdir()):
                name = path.relative_to(directory).as_posix()
                if name in known or name in (LOCK, *FOLDERS):
                    continue
                if path.name.endswith(files.TEMPORARY):
                    why = "a run that was killed left it; the next one deletes it"
                else:
                    why = _NOT_OURS
                yield Finding(name, "extra", why)


def _files(directory: Path, folder: str, ending: str) -> list[Path]:
    with suppress(OSError):
        return sorted(p for p in (directory / folder).iterdir() if p.name.endswith(ending))
    return []


def _item(record: Record) -> Item:
    """Return whose a record is that was read before."""
    if "trial" in record:
        trial = record["trial"]
        return Trial(trial["seed"], trial["criterion"], trial["keep"], trial["recovery"])
    return Stage(record["seed"], record["stage"], record.get("keep", 1.0))


def _record(item: Item) -> str:
    return f"records/{item.id}.json"


def _checkpoint(item: Item) -> str:
    return f"checkpoints/{item.id}.safetensors"
