"""What a file or folder of secateur's holds, for a person to read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.highlighter import JSONHighlighter
from rich.table import Table
from torch import Tensor

from secateur import files
from secateur.console import Words
from secateur.errors import UsageError, printable
from secateur.pruning.files.reading import read
from secateur.study.store import read_failures, read_records, read_spec, spec_hash
from secateur.study.summary import summarise

Record = dict[str, Any]


def inspection(path: Path) -> RenderableType:
    """Return a view of a study directory, a record (JSON), a saved model, or other safetensors.

    Raises:
        UsageError: the path is something else.
        FileError: the file cannot be read.
        StudyError: the directory holds no study.
    """
    if path.is_dir():
        return _study(path)
    if path.suffix == ".json":
        return _json(path)
    if path.suffix == ".safetensors":
        with files.open_tensors(path) as tensors:
            ours = tensors.metadata.get("format") == files.MODEL
        return _model(path) if ours else _tensors(path)
    raise UsageError(
        f"cannot inspect {path}: give a study directory, a .json record or a .safetensors file"
        + ("" if path.exists() else " that exists")
    )


def _json(path: Path) -> RenderableType:
    with files.refusing(path, "give a record of a study"):
        text = json.dumps(files.read_json(path), indent=2, ensure_ascii=False)
    return JSONHighlighter()("\n".join(map(printable, text.split("\n"))))


def _study(directory: Path) -> RenderableType:
    spec = read_spec(directory)
    trials, stages = read_records(directory, spec_hash(spec))
    failures = read_failures(directory, spec_hash(spec))
    view = Table.grid(padding=(0, 2))
    with files.refusing(directory, "run the study again, into another directory"):
        for name, text in _facts(spec, trials, stages, failures):
            view.add_row(name, Words(text))
    return view


def _facts(
    spec: Record, trials: Sequence[Record], stages: Sequence[Record], failures: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Return names of facts, and the facts."""
    missing, records = summarise(spec, trials).missing, (*trials, *stages)
    seconds = sum(record.get("seconds", 0) for record in records)
    work = sum(record.get("work", 0) for record in records)  # training, recovery, evaluating
    overhead = 100 * (1 - work / seconds) if seconds else 0.0
    excluded = stages[0].get("excluded", {}) if stages else {}
    return [
        ("task", str(spec["task"]["name"])),
        ("address", spec_hash(spec)),
        ("criteria", ", ".join(spec["criteria"])),
        ("keep ratios", ", ".join(f"{keep:g}" for keep in spec["levels"])),
        ("seeds", ", ".join(map(str, spec["seeds"]))),
        ("stages done", ", ".join(f"{s['stage']} (seed {s['seed']})" for s in stages)),
        ("trials done", f"{len(trials)}, {len(missing)} missing"),
        ("seconds", f"{seconds:.0f}, {overhead:.1f} % not in training or evaluating"),
        *(("failed", f"{item}: {why}") for item, why in failures.items()),
        *(("not pruned", f"{name}: {reason}") for name, reason in excluded.items()),
    ]


def _model(path: Path) -> RenderableType:
    """Return what a file of `secateur.save` holds: the tensors of the model, not their packing."""
    state, info = read(path)
    view = _table("kept as", "bytes")
    for stored in info.tensors:
        form = Words(f"tied to {stored.tied}" if stored.tied else stored.form)
        view.add_row(*_facts_of(stored.name, state[stored.name]), form, f"{stored.size:,}")
    lines = [f"budget: {info.budget}"] if info.budget else []
    if info.architecture:
        lines.append(f"architecture: {info.architecture[0]} {dict(info.architecture[1])}")
    lines += [f"{key}: {value}" for key, value in info.provenance.items()]
    written = ", ".join(f"{name} {version}" for name, version in info.versions.items())
    lines += [f"written {info.date} with {written}", f"sha256 {info.sha256}, which it has"]
    lines.append(f"{path.stat().st_size:,} bytes on disk")
    return Group(view, *map(Words, lines))


def _tensors(path: Path) -> RenderableType:
    view = _table()
    zeros = total = 0
    with files.open_tensors(path, framework="torch") as tensors:
        for name, tensor in tensors.items():
            zeros, total = zeros + int((tensor == 0).sum()), total + tensor.numel()
            view.add_row(*_facts_of(name, tensor))
        metadata = tensors.metadata
    lines = [f"{key}: {value[:200]}" for key, value in metadata.items()]
    size = path.stat().st_size
    lines.append(f"{total:,} numbers, {zeros:,} of them zero; {size:,} bytes on disk")
    return Group(view, *map(Words, lines))


def _table(*more: str) -> Table:
    view = Table("tensor", "shape", "type", "non-zero", *more, header_style="bold")
    for column in view.columns[1:]:
        column.justify = "right"
    return view


def _facts_of(name: str, tensor: Tensor) -> tuple[RenderableType, ...]:
    """Return what stands in the first columns of `_table`."""
    share = f"{100 * int((tensor != 0).sum()) / tensor.numel():.1f} %" if tensor.numel() else "-"
    shape = "×".join(map(str, tensor.shape))
    return Words(name), Words(shape), str(tensor.dtype).removeprefix("torch."), share
