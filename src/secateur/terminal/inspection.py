"""What a file or folder of secateur's holds: as JSON values, and for a person to read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.highlighter import JSONHighlighter
from rich.table import Table
from torch import Tensor

from secateur import files
from secateur.compiler import artifact, bundle
from secateur.console import Words
from secateur.errors import FileError, UsageError, printable
from secateur.pruning.files import description
from secateur.pruning.files.reading import read
from secateur.study import checking, checkpoints
from secateur.study.reading import read_failures, read_records, read_spec, spec_hash
from secateur.study.summary import summarise
from secateur.terminal import networks

Record = dict[str, Any]

KINDS = (
    "a study directory, a folder of C, an engine, an .onnx file, a .json record or a .safetensors "
    "file"
)


def document(path: Path) -> Record:
    """Return what a file or a folder of secateur's, or an ONNX file, holds, as JSON values.

    Returns:
        `kind` (study, record, model, safetensors, engine, c or onnx), `path`, and what docs/cli.md
        lists of each.

    Raises:
        UsageError: the path is something else.
        FileError: there is nothing, or it cannot be read.
        StudyError: the study has no spec, or one that cannot be read.
        CompileError: of an ONNX file: see `onnx_description.described`.
    """
    if path.is_dir() and (path / bundle.MANIFEST).exists():
        return {"kind": "c", "path": str(path)} | networks.folder(path)
    if path.is_dir() and ((path / checking.SPEC).exists() or (path / "records").is_dir()):
        return {"kind": "study", "path": str(path)} | _study(path)
    if path.suffix == ".json":
        with files.refusing(path, "give a record of a study"):
            return {"kind": "record", "path": str(path), "record": files.read_json(path)}
    if path.suffix == ".safetensors":
        with files.open_tensors(path) as tensors:
            ours = tensors.metadata.get("format") == files.MODEL
        kind, found = ("model", _model(path)) if ours else ("safetensors", _tensors(path))
        return {"kind": kind, "path": str(path), "bytes": path.stat().st_size} | found
    if path.suffix == ".onnx" and path.is_file():
        return {"kind": "onnx", "path": str(path)} | networks.onnx(path)
    if path.is_file() and artifact.is_engine(path):
        return {"kind": "engine", "path": str(path)} | networks.engine(path)
    if not path.exists():
        raise FileError(f"cannot inspect {path}: there is no such file or folder; give {KINDS}")
    if path.is_dir():
        raise UsageError(
            f"cannot inspect {path}: it holds no {checking.SPEC} or {bundle.MANIFEST}, so it is no "
            "study and no folder of C; give one, or a file in it"
        )
    raise UsageError(f"cannot inspect {path}: give {KINDS}")


def inspection(path: Path) -> RenderableType:
    """Return a view of `document`, which says what it raises."""
    found = document(path)
    views = {
        "study": _of_study,
        "record": _of_record,
        "model": _of_model,
        "engine": networks.of_compiled,
        "c": networks.of_compiled,
        "onnx": _of_onnx,
    }
    return views.get(found["kind"], _of_tensors)(found)


def _study(directory: Path) -> Record:
    spec = read_spec(directory)
    trials, stages = read_records(directory, spec_hash(spec))
    failures = read_failures(directory, spec_hash(spec))
    with files.refusing(directory, "run the study again, into another directory"):
        records = (*trials, *stages)
        return {
            "task": spec["task"]["name"],
            "address": spec_hash(spec),
            "criteria": spec["criteria"],
            "keep": spec["levels"],
            "seeds": spec["seeds"],
            "stages": [{"stage": s["stage"], "seed": s["seed"]} for s in stages],
            "trials": len(trials),
            "missing": list(summarise(spec, trials).missing),
            "seconds": sum(record.get("seconds", 0) for record in records),
            # training, recovery, evaluating
            "work": sum(record.get("work", 0) for record in records),
            "failed": failures,
            "not_pruned": stages[0].get("excluded", {}) if stages else {},
        }


def _model(path: Path) -> Record:
    """Return what a file of `secateur.save` holds: the tensors of the model, not their packing."""
    state, info = read(path)
    budget = None if info.budget is None else description.Cut.of(info.budget)
    builder = info.architecture and description.Builder(*info.architecture)
    known = {"budget": budget, "architecture": builder, "provenance": info.provenance}
    return {
        "tensors": [
            _facts_of(stored.name, state[stored.name])
            | {"form": stored.form, "bytes": stored.size, "tied": stored.tied}
            for stored in info.tensors
        ],
        **{name: json.loads(files.to_json(value)) for name, value in known.items()},
        "versions": dict(info.versions),
        "date": info.date,
        "sha256": info.sha256,
    }


def _tensors(path: Path) -> Record:
    if checkpoints.is_packed(path):
        named = checkpoints.read(path).network
        return {"tensors": [_facts_of(*each) for each in named.items()], "metadata": {}}
    with files.open_tensors(path, framework="torch") as tensors:
        found = [_facts_of(name, tensor) for name, tensor in tensors.items()]
        return {"tensors": found, "metadata": tensors.metadata}


def _facts_of(name: str, tensor: Tensor) -> Record:
    return {
        "name": name,
        "shape": list(tensor.shape),
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "elements": tensor.numel(),
        "nonzero": int((tensor != 0).sum()),
    }


# Views.


def _of_study(found: Record) -> RenderableType:
    overhead = 100 * (1 - found["work"] / found["seconds"]) if found["seconds"] else 0.0
    facts = [
        ("task", str(found["task"])),
        ("address", found["address"]),
        ("criteria", ", ".join(found["criteria"])),
        ("keep ratios", ", ".join(f"{keep:g}" for keep in found["keep"])),
        ("seeds", ", ".join(map(str, found["seeds"]))),
        ("stages done", ", ".join(f"{s['stage']} (seed {s['seed']})" for s in found["stages"])),
        ("trials done", f"{found['trials']}, {len(found['missing'])} missing"),
        ("seconds", f"{found['seconds']:.0f}, {overhead:.1f} % not in training or evaluating"),
        *(("failed", f"{item}: {why}") for item, why in found["failed"].items()),
        *(("not pruned", f"{name}: {why}") for name, why in found["not_pruned"].items()),
    ]
    view = Table.grid(padding=(0, 2))
    for name, text in facts:
        view.add_row(name, Words(text))
    return view


def _of_record(found: Record) -> RenderableType:
    text = json.dumps(found["record"], indent=2, ensure_ascii=False)
    return JSONHighlighter()("\n".join(map(printable, text.split("\n"))))


def _of_model(found: Record) -> RenderableType:
    view = _table("kept as", "bytes")
    for each in found["tensors"]:
        form = Words(f"tied to {each['tied']}" if each["tied"] else each["form"])
        view.add_row(*_cells(each), form, f"{each['bytes']:,}")
    lines = []
    if budget := found["budget"]:
        said = (f"{key} {value}" for key, value in budget.items() if value != [])
        lines.append(f"budget: {', '.join(said)}")
    if builder := found["architecture"]:
        lines.append(f"architecture: {builder['name']} {builder['arguments']}")
    lines += [f"{key}: {value}" for key, value in found["provenance"].items()]
    written = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    lines += [f"written {found['date']} with {written}", f"sha256 {found['sha256']}, which it has"]
    lines.append(f"{found['bytes']:,} bytes on disk")
    return Group(view, *map(Words, lines))


def _of_onnx(found: Record) -> RenderableType:
    return Group(networks.of_onnx(found), _of_tensors(found | {"metadata": {}}))


def _of_tensors(found: Record) -> RenderableType:
    view = _table()
    for each in found["tensors"]:
        view.add_row(*_cells(each))
    lines = [f"{key}: {value[:200]}" for key, value in found["metadata"].items()]
    total = sum(each["elements"] for each in found["tensors"])
    zeros = total - sum(each["nonzero"] for each in found["tensors"])
    lines.append(f"{total:,} numbers, {zeros:,} of them zero; {found['bytes']:,} bytes on disk")
    return Group(view, *map(Words, lines))


def _table(*more: str) -> Table:
    view = Table("tensor", "shape", "type", "non-zero", *more, header_style="bold")
    for column in view.columns[1:]:
        column.justify = "right"
    return view


def _cells(each: Record) -> tuple[RenderableType, ...]:
    """Return what stands in the first columns of `_table`."""
    share = f"{100 * each['nonzero'] / each['elements']:.1f} %" if each["elements"] else "-"
    return Words(each["name"]), Words("×".join(map(str, each["shape"]))), each["dtype"], share
