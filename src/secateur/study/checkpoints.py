"""The file of a stage's network: of what is cut only a bit a weight, and nothing else is lost.

A network that was never cut is a plain safetensors file of its state dict. Of one that was cut, the
tensors with masks are packed as `secateur.pruning.files.packed` does: a bit for each weight, which
is the mask, and what is kept. So are their gates: what was cut on a ladder stays so, and its gates
decide nothing any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from secateur import files
from secateur.files import Size
from secateur.pruning.files.packed import DTYPES, Form, Packed, kept_of, pack, unpack
from secateur.pruning.gates.gates import SUFFIX
from secateur.pruning.selecting.masks import Masks

FACTS = "secateur checkpoint 1"
"""The one entry of the metadata of a file with packed tensors. There is no other: a file must be
the same each time, and safetensors writes several entries in any order."""
_MASK = ".mask."  # before a mask's name in files of earlier versions


class _Stored(msgspec.Struct):
    """How a packed tensor stands in the file."""

    dtype: str
    shape: tuple[Size, ...]
    form: Form
    count: Size


class _Facts(msgspec.Struct):
    """What such a file says of itself: packed tensors, and which of them have a mask."""

    packed: dict[str, _Stored]
    masks: list[str]


@dataclass(frozen=True, slots=True, eq=False)
class Saved:
    """What a stage leaves: its network's state dict, and what is kept, where it was cut.

    Weights that are cut are zero, and gates of such come back as zeros.
    """

    network: Mapping[str, Tensor]
    masks: Masks | None = None


def content(saved: Saved) -> bytes:
    """Return the content of a stage's file; the same for the same network."""
    masks = dict(saved.masks or {})
    behind = masks | {f"{name}{SUFFIX}": mask for name, mask in masks.items()}
    tensors: dict[str, Tensor] = {}
    stored: dict[str, _Stored] = {}
    for name, tensor in saved.network.items():
        mask = behind.get(name)
        if mask is None:
            tensors[name] = tensor.detach().cpu().contiguous().clone()
            continue
        made = pack(tensor, mask)
        tensors[name] = torch.from_numpy(made.content.copy())
        dtype = str(tensor.dtype).removeprefix("torch.")
        stored[name] = _Stored(dtype, tuple(tensor.shape), made.form, made.count)
    facts = {FACTS: files.to_json(_Facts(stored, list(masks)))}
    return files.content_of(tensors, facts if masks else {}, "torch")


def is_packed(path: Path) -> bool:
    """Return whether a file is a checkpoint with packed tensors.

    Raises:
        FileError: it cannot be read.
    """
    with files.open_tensors(path) as tensors:
        return FACTS in tensors.metadata


def read(path: Path) -> Saved:
    """Return what a stage has left; tensors are on the CPU.

    Raises:
        FileError: the file is missing, damaged, or another one.
    """
    with files.open_tensors(path, framework="torch") as tensors:
        found = dict(tensors.items())
        if FACTS not in tensors.metadata:
            old = {n.removeprefix(_MASK): found.pop(n) for n in list(found) if n.startswith(_MASK)}
            return Saved(found, Masks(old) if old else None)
        facts = files.validated(files.parse_json(tensors.metadata[FACTS]), _Facts)
        masks: dict[str, Tensor] = {}
        for name, how in facts.packed.items():
            if name not in found or how.dtype not in DTYPES:
                raise ValueError(f"it has no tensor {name[:80]!a} of a dtype that torch has")
            given = Packed(how.form, how.count, found[name].numpy())
            dtype = DTYPES[how.dtype]
            found[name] = unpack(given, dtype, how.shape)
            if name in facts.masks:
                masks[name] = kept_of(given, dtype, how.shape)
        return Saved(found, Masks(masks) if masks else None)
