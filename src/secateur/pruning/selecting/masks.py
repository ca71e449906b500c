"""Masks: which weights are kept; the outcome of scores and budget."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from secateur import files
from secateur.arguments import BOOL, PATH, a, checked, shown
from secateur.errors import UnknownNameError, UsageError
from secateur.model.parameters import parameters


class _Facts(msgspec.Struct):
    """What a file of masks says of itself."""

    shapes: dict[str, tuple[files.Size, ...]]
    digest: str


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
        path = Path(path)
        files.refuse_loss(
            path, lambda there: files.format_of(there) == files.MASKS, "file of masks", force=force
        )
        facts = _Facts({name: tuple(mask.shape) for name, mask in self.items()}, self.digest())
        packed = {name: _pack(mask) for name, mask in self.items()}
        files.write(path, files.content_of(packed, files.metadata_of(files.MASKS, facts)))

    @classmethod
    @checked(path=PATH)
    def load(cls, path: str | Path) -> Masks:
        """Read what `save` wrote; the tensors are on the CPU.

        Raises:
            FileError: the file is missing, truncated, damaged, or holds something else.
        """
        with files.open_tensors(Path(path), files.MASKS) as tensors:
            facts = tensors.facts(_Facts)
            sizes = {name: -(-math.prod(shape) // 8) for name, shape in facts.shapes.items()}
            if tensors.kinds() != {name: ("U8", [size]) for name, size in sizes.items()}:
                raise ValueError("its tensors are not those of its shapes")
            masks = cls({n: _unpack(bits, facts.shapes[n]) for n, bits in tensors.items()})
            if masks.digest() != facts.digest:
                raise ValueError("its digest does not match")
        return masks


def _pack(mask: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.packbits(mask.cpu().numpy().reshape(-1), bitorder="little")


def _unpack(bits: np.ndarray[Any, np.dtype[Any]], shape: tuple[int, ...]) -> Tensor:
    flat = np.unpackbits(bits, count=math.prod(shape), bitorder="little").view(bool)
    return torch.from_numpy(flat).view(shape)
