"""Masks: which weights are kept; the outcome of scores and budget."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
import torch
from torch import Tensor, nn

from secateur import files
from secateur.arguments import BOOL, PATH, a, checked, shown
from secateur.errors import FileError, UnknownNameError, UsageError
from secateur.model.parameters import parameters

FORMAT = "secateur masks 1"


class Masks(Mapping[str, Tensor]):
    """A frozen mapping from parameter names, sorted, to bool tensors: True is kept.

    The tensors are those that were given, not copies; do not change them afterwards.
    """

    @checked(masks=a(Mapping, "name → bool tensor"))
    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        """Take the masks of one model.

        Raises:
            UsageError: there is none, or one is no bool tensor.
        """
        if not masks:
            raise UsageError("there are no masks; give name → bool tensor for at least one name")
        for name, mask in masks.items():
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
                kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
                raise UsageError(f"the mask of {name!r} must be a bool tensor, but is {kind}")
        self._masks = {name: masks[name] for name in sorted(masks)}

    def __getitem__(self, name: str) -> Tensor:
        try:
            return self._masks[name]
        except (KeyError, TypeError):  # TypeError: it has no hash
            raise UnknownNameError(
                f"there is no mask of {shown(name)}; the names are {', '.join(self._masks)}"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Masks):
            return NotImplemented
        return list(self) == list(other) and all(
            mask.shape == other[name].shape and torch.equal(mask, other[name].to(mask.device))
            for name, mask in self.items()
        )

    def __hash__(self) -> int:
        return hash(self.digest())

    def __repr__(self) -> str:
        return f"Masks({len(self)} tensors, {self.kept:,} of {self.total:,} weights kept)"

    @cached_property
    def layers(self) -> Mapping[str, tuple[int, int]]:
        """How many weights each tensor keeps, and has: name → (kept, total)."""
        return {name: (int(torch.count_nonzero(mask)), mask.numel()) for name, mask in self.items()}

    @property
    def kept(self) -> int:
        """How many weights are kept, in all."""
        return sum(kept for kept, _ in self.layers.values())

    @property
    def total(self) -> int:
        """How many weights there are, in all."""
        return sum(mask.numel() for mask in self.values())

    @property
    def keep(self) -> float:
        """The keep ratio reached: kept / total; 1 where there are no weights at all."""
        return self.kept / self.total if self.total else 1.0

    @property
    def emptied(self) -> tuple[str, ...]:
        """The tensors that had weights and keep none: nothing gets through those layers."""
        return tuple(name for name, (kept, total) in self.layers.items() if total and not kept)

    @checked(model=a(nn.Module, "a torch module"))
    def apply(self, model: nn.Module) -> None:
        """Set every weight that is cut to zero, in place, whatever it was (NaN included).

        Args:
            model: has every masked parameter, in the mask's shape; others are left alone.

        Raises:
            UsageError: a parameter is missing or has another shape; names the first such one,
                and nothing was changed.
        """
        weights = parameters(model, tuple(self))
        for name, mask in self.items():
            if weights[name].shape != mask.shape:
                raise UsageError(
                    f"the mask of {name!r} has shape {tuple(mask.shape)}, but the parameter "
                    f"{tuple(weights[name].shape)}; these masks belong to another model"
                )
        with torch.no_grad():
            for name, mask in self.items():
                weight = weights[name]
                weight.masked_fill_(mask.to(weight.device).logical_not(), 0)

    def hold(self, model: nn.Module) -> None:
        """Put the zeros back: call it after every optimizer step.

        The weights that are cut then stay exactly zero under any optimizer, with momentum and
        weight decay, and so do their averages (EMA). Nothing is attached to the model, so it can
        be copied, saved, compiled and wrapped as before. Keep the masks on the model's device
        (see `to`). Errors are those of `apply`.
        """
        self.apply(model)

    def to(self, device: torch.device | str) -> Masks:
        """Return the masks on a device; those that are there already are not copied."""
        return Masks({name: mask.to(device) for name, mask in self.items()})

    @checked(other=a(Mapping, "Masks"))
    def nested_in(self, other: Masks) -> bool:
        """Return whether the other masks keep everything that these keep.

        Raises:
            UsageError: the masks are of different parameters or shapes.
        """
        if {n: m.shape for n, m in self.items()} != {n: m.shape for n, m in other.items()}:
            raise UsageError("masks of different models cannot be compared: names or shapes differ")
        return all(bool((mask.to(other[n].device) <= other[n]).all()) for n, mask in self.items())

    def digest(self) -> str:
        """Return the SHA-256 of names, shapes and bits, in hex; equal on every machine."""
        sha = hashlib.sha256()
        for name, mask in self.items():
            sha.update(json.dumps([name, list(mask.shape)]).encode() + b"\n")
            sha.update(_pack(mask).data)
        return sha.hexdigest()

    @checked(path=PATH, force=BOOL)
    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write the masks to a safetensors file, whole or not at all.

        One uint8 tensor per name holds the mask in row-major order, eight weights a byte, the
        first in the lowest bit; the metadata hold `format`, `shapes` (JSON) and `digest`.

        Args:
            path: of the file; masks that are there already are replaced.
            force: write over a file that holds no masks, too.

        Raises:
            UsageError: there is a file that holds no masks.
            FileError: the file cannot be written.
        """
        path = files.path_of(path)
        files.refuse_loss(
            path, lambda there: format_of(there) == FORMAT, "file of masks", force=force
        )
        shapes = {name: list(mask.shape) for name, mask in self.items()}
        metadata = {"format": FORMAT, "shapes": json.dumps(shapes), "digest": self.digest()}
        packed = {name: _pack(mask) for name, mask in self.items()}
        files.write(path, safetensors.numpy.save(packed, metadata))

    @classmethod
    def load(cls, path: str | Path) -> Masks:
        """Read what `save` wrote; the tensors are on the CPU.

        Raises:
            FileError: the file is missing, truncated, damaged, or holds something else.
        """
        path = files.path_of(path)
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
                ours = metadata.get("format") == FORMAT and set(kinds.values()) <= {"U8"}
                packed = {name: file.get_tensor(name) for name in kinds} if ours else {}
        except (OSError, safetensors.SafetensorError) as error:
            raise FileError(
                f"cannot read masks from {path}: {error}; give a file that Masks.save wrote"
            ) from error
        if not ours:
            raise FileError(
                f"{path} holds no masks: its format is {metadata.get('format')!r} with tensors of "
                f"{sorted(set(kinds.values()))}, not {FORMAT!r}; give a file that Masks.save wrote"
            )
        try:
            shapes = files.parse_json(metadata["shapes"])
            if not isinstance(shapes, dict) or shapes.keys() != packed.keys():
                raise ValueError("shapes and tensors have different names")
            masks = cls({name: _unpack(bits, shapes[name]) for name, bits in packed.items()})
            if masks.digest() != metadata["digest"]:
                raise ValueError("the digest does not match")
        except (
            ArithmeticError,
            KeyError,
            RecursionError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as e:
            raise FileError(
                f"{path} is damaged: {e or type(e).__name__}; write it again with Masks.save"
            ) from e
        return masks


def format_of(path: Path) -> str | None:
    """Return what a safetensors file says that it holds; None where it says nothing, or is none.

    Raises:
        OSError: it cannot be read.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return (file.metadata() or {}).get("format")
    except safetensors.SafetensorError:
        return None


def _pack(mask: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.packbits(mask.cpu().numpy().reshape(-1), bitorder="little")


def _unpack(bits: np.ndarray[Any, np.dtype[Any]], shape: list[int]) -> Tensor:
    if not all(isinstance(size, int) and 0 <= size < 2**63 for size in shape):
        raise ValueError(f"{str(shape)[:80]} is no shape")
    size = math.prod(shape)
    if bits.shape != (-(-size // 8),):
        raise ValueError("a tensor does not fit its shape")
    flat = np.unpackbits(bits, count=size, bitorder="little").view(bool)
    return torch.from_numpy(flat).view(shape)
