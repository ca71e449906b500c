"""Seeds of a study taken over into the same study of more seeds: nothing of them is done again.

A seed's numbers do not depend on how many seeds there are. The claim does: intervals and
certificates are of a number of seeds that was fixed before any result was seen. So every record
that is taken over says of which study it is, and the report says that the number was grown.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from secateur import files
from secateur.errors import FileError, StudyError
from secateur.study import matched
from secateur.study.hashed import read_record
from secateur.study.matched import Matched
from secateur.study.plan import Item, Stage, items
from secateur.study.reading import Record, read_matched, read_spec, spec_hash
from secateur.study.spec import Spec, differences, is_smaller
from secateur.study.store import Store

REUSED = "reused"
"""Field of a record that was taken over: the studies that it was of, the first one first."""


def earlier(spec: Spec, directory: Path) -> Path | None:
    """Return the study of most seeds that this one grows from, beside its directory; or None.

    Args:
        spec: of the study.
        directory: `studies/<task>-<hash>`; only directories of that form are looked at.
    """
    slug = directory.name.rpartition("-")[0]
    found: list[tuple[int, Path]] = []
    for path in sorted(directory.parent.glob(f"{slug}-{'[0-9a-f]' * 12}")) if slug else []:
        with suppress(StudyError):  # it is no study, or of another version
            other = read_spec(path)
            if path != directory and is_smaller(other, spec):
                found.append((len(other["seeds"]), path))
    return max(found, default=(0, None))[1]


def refuse_other(spec: Spec, source: Path) -> None:
    """Refuse a directory that this study cannot grow from.

    Raises:
        StudyError: it holds no study, or one that differs in more than the number of seeds.
    """
    there = read_spec(source)
    if not is_smaller(there, spec):
        what = ", ".join(differences(there, spec.as_json())) or "nothing"
        raise StudyError(
            f"the study in {source} is not this one with fewer seeds, so none of its seeds can be "
            f"taken over (they differ in {what}); give the same options, the same first seed and "
            "more --seeds, or leave out --grow"
        )


def grow(store: Store, spec: Spec, source: Path) -> tuple[int, ...]:
    """Take over what is missing here of the seeds that are complete in another directory.

    Records are written anew, with the address of this study; checkpoints are linked where the
    file system can do that, and copied where not. May be killed at any moment, and done again.

    Args:
        store: of this study, open.
        spec: of this study.
        source: this study with fewer seeds; nothing is changed there.

    Returns:
        The seeds that are complete there.

    Raises:
        StudyError: as of `read_spec`.
        FileError: a file cannot be written.
    """
    there = read_spec(source)
    address, seeds = spec_hash(there), tuple(there["seeds"])
    found = read_matched(source, address)
    known = found is not None and found.width is not None
    complete = []
    for seed in seeds:
        planned = tuple(items(spec.options, (seed,), matched=known))
        records = _records(source, address, planned)
        if len(records) == len(planned):
            complete.append(seed)
            if found is not None and known:
                _agree(store, found, source)
            for item in planned:
                if store.read(item) is None:
                    _take(store, item, records[item], source, address, len(seeds))
    return tuple(complete)


def _records(source: Path, address: str, planned: tuple[Item, ...]) -> dict[Item, Record]:
    """Return the records of items that are whole, with the checkpoints of those that are stages."""
    found: dict[Item, Record] = {}
    for item in planned:
        with suppress(OSError, ValueError):
            record = read_record(source / "records" / f"{item.id}.json", address, item)
            network = _checkpoint(source, item) if isinstance(item, Stage) else None
            if network is None or files.sha256_of(network) == record["checkpoint"]:
                found[item] = record
    return found


def _agree(store: Store, found: Matched, source: Path) -> None:
    """Take over the width of the dense network that is as fast; all seeds have the same one."""
    here = store.matched()
    if here is None or here.width is None:
        store.write_matched(matched.as_json(found))
    elif here.width != found.width:
        raise StudyError(
            f"the dense network that is as fast has width {here.width:g} here and {found.width:g} "
            f"in {source}, and all seeds of a study have the same; leave out --grow, or begin in "
            "another directory"
        )


def _take(store: Store, item: Item, record: Record, source: Path, address: str, seeds: int) -> None:
    """Write a record here, behind its checkpoint: with the record an item is done."""
    if isinstance(item, Stage):
        _link(_checkpoint(source, item), _checkpoint(store.directory, item))
    content = {key: value for key, value in record.items() if key != "spec"}
    before = [*content.pop(REUSED, []), {"spec": address, "seeds": seeds}]
    store.write(item, {**content, REUSED: before})


def _link(source: Path, target: Path) -> None:
    """Let a file be in two places; neither is ever changed, only replaced."""
    try:
        target.unlink(missing_ok=True)
        with suppress(OSError):
            os.link(source, target)
            return
        part = target.with_name(f".{target.name}.growing.secateur-tmp")
        shutil.copyfile(source, part)
        part.replace(target)
    except OSError as error:
        raise FileError(
            f"cannot write {target}: {error.strerror or error}; free some space or choose a folder "
            "that you may write to"
        ) from error


def _checkpoint(directory: Path, stage: Stage) -> Path:
    return directory / "checkpoints" / f"{stage.id}.safetensors"
