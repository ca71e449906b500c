"""What a study's records say of where they were made: versions and machines, earlier studies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from secateur import machine
from secateur.errors import printable

_FEW = 3  # examples of records that are named


def mixed(records: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return a sentence for each way in which records were made by unlike means.

    Versions are compared across the study, kinds of machines within a seed: seeds are not compared
    with each other, but a level with the reference of its seed is.

    Args:
        records: of trials and stages.
    """
    versions: dict[str, dict[str, list[str]]] = {}
    kinds: dict[int, dict[str, None]] = {}
    for record in records:
        trial = record.get("trial")
        seed = int((trial or record)["seed"])
        name = " ".join(map(str, trial.values() if trial else (record["stage"], seed)))
        for package, version in sorted((record.get("versions") or {}).items()):
            versions.setdefault(package, {}).setdefault(str(version), []).append(name)
        if kind := machine.kind(record.get("hardware") or {}):
            kinds.setdefault(seed, {})[kind] = None
    said = [_of(package, found) for package, found in versions.items() if len(found) > 1]
    said += [
        f"seed {seed} was computed on machines of different kinds ({'; '.join(found)}); a level "
        "and its reference are compared only where both are of one kind"
        for seed, found in sorted(kinds.items())
        if len(found) > 1
    ]
    return tuple(map(printable, said))


def grown(records: Iterable[Mapping[str, Any]]) -> tuple[int, ...]:
    """Return how many seeds the studies had that records were taken over from, rising."""
    found = {
        (str(each["spec"]), int(each["seeds"]))
        for record in records
        for each in record.get("reused") or ()
    }
    return tuple(sorted(seeds for _, seeds in found))


def _of(package: str, found: Mapping[str, list[str]]) -> str:
    parts = ", ".join(f"{version} in {len(names)}" for version, names in sorted(found.items()))
    rare = min(found.values(), key=len)
    such = "; ".join(rare[:_FEW]) + (", and more" if len(rare) > _FEW else "")
    return f"records are of different versions of {package}: {parts} (such as {such})"
