"""Readers of files of tensors: models, masks, stages of a training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import safetensors.numpy
import torch
from torch import nn

import secateur
from fuzz_reader import Reader, folder, in_file
from secateur.console import console
from secateur.pruning.files import stage_file
from secateur.terminal.inspection import inspection
from secateur.terminal.verification import verify


@cache
def _pruned() -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 40), nn.BatchNorm1d(40), nn.Linear(40, 4))
    return secateur.prune(model, 0.3)


def _written(write: Callable[[Path], object]) -> bytes:
    path = folder() / "seed.safetensors"
    path.unlink(missing_ok=True)
    write(path)
    return path.read_bytes()


@cache
def _models() -> list[bytes]:
    model, result = _pruned()
    given = {"masks": result.masks, "budget": result.budget, "architecture": "torch.nn:Linear"}
    return [
        _written(lambda path: secateur.save(model, path)),
        _written(lambda path: secateur.save(model, path, **given, dtype=torch.float16)),
        _written(lambda path: secateur.save(nn.Linear(3, 2), path, provenance={"a": [1.5, None]})),
    ]


def _masks() -> list[bytes]:
    return [_written(_pruned()[1].masks.save)]


def _stages() -> list[bytes]:
    masks = dict(_pruned()[1].masks)
    gates = {name: torch.rand(mask.shape) for name, mask in masks.items()}
    learning = {"number": 3, "square": 0.5, "averaged": 2, "gates": gates}
    states: list[dict[str, Any]] = [
        {"stage": "held", "gates": {}, "masks": masks},
        {"stage": "gates", "gates": learning, "masks": {}},
    ]
    return [_written(lambda path, state=state: stage_file.write(path, state)) for state in states]


def _described(text: bytes) -> object:
    """Read a model whose description is what was drawn, with a hash that fits."""
    content = _models()[1]
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    tensors = safetensors.numpy.load(content)
    notes = header["__metadata__"]
    try:
        notes["description"] = text.decode()
        order = [entry["name"] for entry in json.loads(text)["tensors"] if "tied" not in entry]
    except (ValueError, TypeError, KeyError, RecursionError):
        order = []
    sha = hashlib.sha256(notes["description"].encode())
    for name in order:
        if isinstance(name, str) and name in tensors:
            sha.update(tensors[name].data)
    notes["sha256"] = sha.hexdigest()
    path = folder() / "described.safetensors"
    path.write_bytes(safetensors.numpy.save(tensors, notes))
    return secateur.read(path)


def _descriptions() -> list[bytes]:
    content = _models()[1]
    size = int.from_bytes(content[:8], "little")
    return [json.loads(content[8 : 8 + size])["__metadata__"]["description"].encode()]


def _seen(path: Path) -> object:
    console().render_lines(inspection(path))
    return verify(path)


READERS = {
    "model": Reader(in_file("x.safetensors", secateur.read), _models),
    "description": Reader(_described, _descriptions, json=True),
    "masks": Reader(in_file("x.safetensors", secateur.Masks.load), _masks),
    "stage": Reader(in_file("x.safetensors", stage_file.read), _stages),
    "inspect": Reader(in_file("x.safetensors", _seen), lambda: [*_models(), *_masks(), *_stages()]),
}
