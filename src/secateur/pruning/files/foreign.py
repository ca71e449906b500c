"""Sparse weights as other tools stored them become plain tensors; none of these tools is needed.

The layout is the one that SparseML, llm-compressor and compressed-tensors wrote as sparse_bitmask,
sparse-bitmask and sparse-24-bitmask. For a weight NAME of shape [..., columns] a file holds:

- NAME.shape: int64, the dense shape, in any number of dimensions of its own;
- NAME.bitmask: uint8 [..., ceil(columns / 8)], one bit a weight, the lowest bit first: 1 is kept;
- NAME.compressed: the kept weights in row-major order; one dimension, or [..., columns / 2] where
  two of every four are kept;
- NAME.row_offsets: int64, how many weights are kept before each row; not where two of four are.

Source: SparseML's own description (src/sparseml/transformers/compression/README.md), and the order
of bits from what compressed-tensors 0.9.4 writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.sparse import SparseSemiStructuredTensor

from secateur import files
from secateur.pruning.files import cards

PARTS = (".shape", ".bitmask", ".compressed")
ROWS = ".row_offsets"


def refuse_quantised(config: Mapping[str, Any]) -> None:
    """Refuse weights that are integers with scales beside them.

    Args:
        config: what is in a config.json.

    Raises:
        ValueError: it says so; names the method.
    """
    for section in cards.STORED:
        given = config.get(section)
        if not isinstance(given, Mapping):
            continue
        method = str(given.get("quant_method", "compressed-tensors"))
        if method == "compressed-tensors" and not given.get("config_groups"):
            continue  # zeros alone
        form = given.get("format")
        how = f"{method}, {form}" if isinstance(form, str) else method
        raise ValueError(f"its weights are quantised ({how:.80}), and secateur reads only zeros")


def expanded(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return a state with every sparse weight as a plain tensor, and masks of these weights.

    Args:
        state: name → tensor, on any device; other values are handed on as they are. Not changed.

    Returns:
        name → tensor, those of plain ones not copied; and name → bool tensor, True where kept.

    Raises:
        ValueError: the parts of a weight do not fit together, or cannot be read here. Names it.
    """
    plain: dict[str, Tensor] = {}
    masks: dict[str, Tensor] = {}
    stored = [n.removesuffix(PARTS[1]) for n in state if n.endswith(PARTS[1])]
    whole = [n for n in stored if any(n + part in state for part in PARTS if part != PARTS[1])]
    inside = {name + part for name in whole for part in (*PARTS, ROWS)}
    for name in whole:
        if name in state:
            raise ValueError(f"it holds both {name[:80]!r} and {name[:80] + PARTS[1]!r}")
        plain[name], masks[name] = _dense(name, {p: state.get(name + p) for p in (*PARTS, ROWS)})
    for name, tensor in state.items():
        if isinstance(tensor, SparseSemiStructuredTensor):
            plain[name] = _halved(name, tensor)
            masks[name] = plain[name] != 0
        elif name not in inside:
            plain[name] = tensor
    return plain, masks


def read(paths: Sequence[Path], remedy: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of safetensors files, sparse ones as plain ones, and the ties they note.

    Args:
        paths: of all files of one model.
        remedy: as in `files.refusing`.

    Returns:
        name → tensor; and name → the first name of the same tensor, for those that are left out.

    Raises:
        FileError: a file cannot be read, two hold the same name, or as of `expanded`.
    """
    stored: dict[str, Tensor] = {}
    notes: dict[str, str] = {}
    for path in paths:
        with files.open_tensors(path, remedy=remedy, framework="torch") as tensors:
            for name, tensor in tensors.items():
                if name in stored:
                    raise ValueError(f"it holds {name[:80]!r}, and so does another file")
                stored[name] = tensor
            notes.update(tensors.metadata)
    where = paths[0] if len(paths) == 1 else paths[0].parent
    with files.refusing(where, remedy):
        state, _ = expanded(stored)
    return state, {n: first for n, first in notes.items() if n not in state and first in state}


def _dense(name: str, parts: Mapping[str, Tensor | None]) -> tuple[Tensor, Tensor]:
    """Return one weight and its mask, after everything about it was found to fit."""
    called = repr(name[:80])
    for part in PARTS:
        if parts[part] is None:
            raise ValueError(f"{called} has no {name[:80] + part!r}")
    sizes, bits, values = (found for part in PARTS if (found := parts[part]) is not None)
    if sizes.dtype != torch.int64 or bits.dtype != torch.uint8 or not bits.dim():
        raise ValueError(f"the shape of {called} must be int64 and its bitmask uint8")
    shape = [int(size) for size in sizes.flatten()]
    if not shape or list(bits.shape) != [*shape[:-1], -(-shape[-1] // 8)]:
        raise ValueError(
            f"the bitmask of {called} has shape {tuple(bits.shape)}, which is none of {shape}"
        )
    places = torch.arange(8, dtype=torch.uint8, device=bits.device)
    kept = (bits[..., None] >> places & 1).bool().flatten(-2)
    if bool(kept[..., shape[-1] :].any()):
        raise ValueError(f"the bitmask of {called} has bits beyond its last column")
    kept = kept[..., : shape[-1]]
    counts = kept.reshape(-1, shape[-1]).sum(1)
    if int(counts.sum()) != values.numel():
        raise ValueError(
            f"the bitmask of {called} keeps {int(counts.sum()):,} weights, but there are "
            f"{values.numel():,}"
        )
    offsets = parts[ROWS]
    if offsets is not None and offsets.tolist() != (counts.cumsum(0) - counts).tolist():
        raise ValueError(f"the row offsets of {called} are not those of its bitmask")
    weight = torch.zeros(shape, dtype=values.dtype, device=values.device)
    weight[kept.to(values.device)] = values.flatten()
    return weight, kept


def _halved(name: str, tensor: SparseSemiStructuredTensor) -> Tensor:
    """Return what torch holds as two of every four, as a plain tensor."""
    try:
        plain: Tensor = tensor.to_dense()  # type: ignore[no-untyped-call]
        return plain.detach()
    except RuntimeError as error:  # what NVIDIA's library packs, only it can unpack
        raise ValueError(
            f"{name[:80]!r} is of type {type(tensor).__name__} on {tensor.device}, which torch "
            "cannot make dense there; move the state to the GPU that it was made on"
        ) from error
