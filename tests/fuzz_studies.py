"""Readers of the files of a study."""

from __future__ import annotations

import contextlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from fuzz_reader import Reader, folder, in_file, quiet
from secateur import files
from secateur.study import checking
from secateur.study.reading import read_records, read_spec, spec_hash
from secateur.study.samples import packed
from secateur.study.summary import summarise
from secateur.study.tracking.ledger import LEDGER, Ledger
from secateur.terminal.inspection import inspection
from study_records import plan, trials


@cache
def _spec() -> dict[str, Any]:
    return dict(plan(seeds=2, levels=(0.5, 0.1)))  # few items: all are looked for, each time


def _study() -> Path:
    place = folder() / "study"
    if not place.exists():
        (place / "records").mkdir(parents=True)
        (place / "spec.json").write_text(json.dumps(_spec()))
        for number, text in enumerate(_record_texts()):
            record = json.loads(text)
            content = {**record, "sha256": spec_hash(record)}
            (place / "records" / f"{number}.json").write_text(json.dumps(content))
    return place


def _record(content: bytes) -> object:
    """Sum up a study with a record of what was drawn, with a hash that fits."""
    try:
        record = files.parse_json(content)
    except ValueError:
        return None
    if not isinstance(record, dict):
        return None
    record |= {"spec": spec_hash(_spec())}
    name = "x"
    if isinstance(record.get("trial"), dict):
        with contextlib.suppress(Exception):
            from secateur.study.plan import Trial

            name = Trial(**record["trial"]).id[:200].replace("/", "")
    place = folder() / "record"
    if not place.exists():
        (place / "records").mkdir(parents=True)
        (place / "spec.json").write_text(json.dumps(_spec()))
    for before in (place / "records").iterdir():
        before.unlink()
    path = place / "records" / f"{name}.json"
    try:
        path.write_text(json.dumps({**record, "sha256": spec_hash(record)}))
    except (OSError, ValueError):
        return None
    with quiet():
        list(checking.check(place))
        found, _ = read_records(place, spec_hash(_spec()))
        return summarise(_spec(), found)


def _record_texts() -> list[bytes]:
    found = trials(_spec())
    scores = {"count": 4, "values": packed(np.array([0, 100, 100, 0], np.float32))}
    more = {"scores": scores, "classes": [1.0, None], "calibration_error": 1.5}
    stage = {
        "stage": "start", "seed": 0, "checkpoint": "0" * 64, "log": [{"epoch": 1, "loss": 0.5}],
        "keep": 1.0, "excluded": {"a": "b"}, "gates": {"w": {"edges": [0.0], "counts": [1]}},
    }  # fmt: skip
    some = [found[0], {**found[-1], **more}, stage]
    return [json.dumps({"spec": spec_hash(_spec()), **record}).encode() for record in some]


def _spec_file(content: bytes) -> object:
    place = folder() / "spec"
    place.mkdir(exist_ok=True)
    (place / "spec.json").write_bytes(content)
    list(checking.check(place))
    spec = read_spec(place)
    return summarise(spec, ()), inspection(place)


def _sums(content: bytes) -> object:
    (_study() / "SHA256SUMS").write_bytes(content)
    with quiet():
        return list(checking.check(_study()))


def _sum_lists() -> list[bytes]:
    names = ["spec.json", "records/0.json", "checkpoints/x.safetensors", "report.html"]
    return ["".join(f"{'0' * 64}  {name}\n" for name in names).encode()]


def _ledger(path: Path) -> object:
    return Ledger(path.parent).before("a")


READERS = {
    "record": Reader(_record, _record_texts, json=True),
    "spec": Reader(_spec_file, lambda: [json.dumps(_spec()).encode()], json=True),
    "sums": Reader(_sums, _sum_lists),
    "ledger": Reader(
        in_file(LEDGER, _ledger), lambda: [b'{"tracker": "a", "run": "b"}\n{"logged": "c"}\n']
    ),
}
