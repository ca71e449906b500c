"""Reading model files, and refusing what cannot be believed before any of it is used."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from secateur import files
from secateur.arguments import PATH, checked
from secateur.errors import FileError
from secateur.pruning.files import description, packed
from secateur.pruning.files.description import ModelInfo, Stored
from secateur.pruning.selecting.masks import Masks


class Facts(msgspec.Struct):
    """The metadata of a model file."""

    description: str
    """JSON, whose very text is hashed."""
    sha256: str


@checked(path=PATH)
def read(path: str | Path) -> tuple[dict[str, Tensor], ModelInfo]:
    """Read the values of a file that `save` wrote, with no need for a model.

    Returns:
        the state dict, on the CPU, in the original order; tied names share one tensor. And what
        else the file holds.

    Raises:
        FileError: the file is missing, truncated, damaged, or holds something else.
    """
    path = Path(path)
    info = read_info(path)
    return values(path, info, packed.unpack), info


@checked(path=PATH)
def read_info(path: str | Path) -> ModelInfo:
    """Read what a file that `save` wrote says of itself, but no values; the hash is not checked.

    Raises:
        FileError: as in `read`.
    """
    path = Path(path)
    with files.open_tensors(path, files.MODEL) as tensors:
        facts, kinds = tensors.facts(Facts), tensors.kinds()
        info = description.parse(facts.description, facts.sha256)
        wanted = {tensor.name: ("U8", [tensor.size]) for tensor in _own(info)}
        for name in [*wanted, *kinds]:
            if wanted.get(name) != kinds.get(name):
                raise ValueError(f"{name[:80]!r} is not as the description says")
        return info


@checked(path=PATH)
def load_masks(path: str | Path) -> Masks:
    """Read the masks that `save` was given; the tensors are on the CPU.

    Raises:
        FileError: as in `read`, or the file was written without masks.
    """
    path = Path(path)
    info = read_info(path)
    names = {tensor.name for tensor in info.tensors if tensor.masked}
    if not names:
        raise FileError(f"{path} holds no masks; write it with save(model, path, masks=masks)")
    return Masks(values(path, info, packed.kept_of, names))


def values(
    path: Path,
    info: ModelInfo,
    take: Callable[[packed.Packed, torch.dtype, tuple[int, ...]], Tensor],
    names: set[str] | None = None,
) -> dict[str, Tensor]:
    """Return what is taken of every tensor, or of some, after the hash was found to be right.

    Args:
        path: of the file.
        info: what `read_info` gave.
        take: (packed, dtype, shape) → what is wanted of a tensor.
        names: of which tensors; by default of all, tied ones too.

    Raises:
        FileError: as in `read`.
    """
    found: dict[str, Tensor] = {}
    with files.open_tensors(path, files.MODEL) as tensors:
        facts = tensors.facts(Facts)
        if description.parse(facts.description, info.sha256) != info:
            raise ValueError("it changed while it was being read")
        sha = hashlib.sha256(facts.description.encode())
        for tensor in _own(info):
            content = tensors[tensor.name]
            sha.update(content.data)
            if names is None or tensor.name in names:
                part = packed.Packed(tensor.form, tensor.count, content)
                found[tensor.name] = take(part, tensor.dtype, tensor.shape)
        if sha.hexdigest() != info.sha256:
            raise ValueError("its hash does not match")
    if names is None:
        found = {t.name: found[t.name if t.tied is None else t.tied] for t in info.tensors}
    return found


def _own(info: ModelInfo) -> list[Stored]:
    return [tensor for tensor in info.tensors if tensor.tied is None]
