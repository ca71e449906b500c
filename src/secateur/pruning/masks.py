"""Which weights are kept: the outcome of a selection, frozen."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from secateur import files
from secateur.errors import FileError, UsageError

_SHAPES = "shapes"  # the one key of a masks file's metadata


class Masks(Mapping[str, Tensor]):
    """Parameter name → bool tensor, True where the weight is kept, shaped as the parameter.

    Names stand in sorted order, so that equal masks are equal in every respect.

    Raises:
        UsageError: a tensor is not boolean.
    """

    __slots__ = ("_masks",)

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        for name, mask in masks.items():
            if mask.dtype != torch.bool:
                raise UsageError(f"the mask of {name!r} is {mask.dtype}, but must be torch.bool")
        self._masks = {name: masks[name] for name in sorted(masks)}

    def __getitem__(self, name: str) -> Tensor:
        return self._masks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    def __repr__(self) -> str:
        return f"Masks({self.kept:,} of {self.total:,} weights kept in {len(self)} tensors)"

    @property
    def kept(self) -> int:
        """How many weights are kept."""
        return sum(int(mask.sum()) for mask in self._masks.values())

    @property
    def total(self) -> int:
        """How many weights there are."""
        return sum(mask.numel() for mask in self._masks.values())

    @property
    def layers(self) -> dict[str, tuple[int, int]]:
        """Name → (kept, total)."""
        return {name: (int(mask.sum()), mask.numel()) for name, mask in self._masks.items()}

    @property
    def emptied(self) -> tuple[str, ...]:
        """Names of the tensors that keep no weight at all."""
        return tuple(n for n, mask in self._masks.items() if mask.numel() and not mask.any())

    def apply(self, model: nn.Module) -> None:
        """Set every weight that is not kept to zero, in place; nothing changes on an error.

        Raises:
            UsageError: the masks are of another model; names the first mismatch.
        """
        for name, parameter in self._parameters(model):
            mask = self._masks[name]
            if mask.shape != parameter.shape:
                raise UsageError(
                    f"the mask of {name!r} is {list(mask.shape)} but the parameter "
                    f"{list(parameter.shape)}; these masks are of another model"
                )
        self.hold(model)

    def hold(self, model: nn.Module) -> None:
        """Put the zeros back; call it after each optimizer step, whatever the optimizer."""
        with torch.no_grad():
            for name, parameter in self._parameters(model):
                # Not a product: NaN * 0 is NaN, and -1 * 0 is -0.
                parameter.masked_fill_(~self._masks[name].to(parameter.device), 0)

    def _parameters(self, model: nn.Module) -> list[tuple[str, nn.Parameter]]:
        parameters = dict(model.named_parameters())
        for name in self._masks:
            if name not in parameters:
                raise UsageError(
                    f"the model has no parameter {name!r}; these masks are of another model"
                )
        return [(name, parameters[name]) for name in self._masks]

    def nested_in(self, other: Masks) -> bool:
        """Return whether every weight kept here is kept in `other` too."""
        return set(self) == set(other) and not any(
            bool((mask & ~other[name]).any()) for name, mask in self._masks.items()
        )

    def digest(self) -> str:
        """Return the SHA-256, in hex, of names, shapes and bits; equal on every machine."""
        content = hashlib.sha256()
        for name, mask in self._masks.items():
            content.update(json.dumps([name, list(mask.shape)]).encode())
            content.update(_pack(mask).numpy().data)
        return content.hexdigest()

    def save(self, path: Path | str) -> None:
        """Write the masks as safetensors, one bit a weight.

        Raises:
            FileError: the file cannot be written; nothing half-written stays behind.
        """
        tensors = {name: _pack(mask) for name, mask in self._masks.items()}
        shapes = json.dumps({name: list(mask.shape) for name, mask in self._masks.items()})
        files.write(Path(path), safetensors.torch.save(tensors, {_SHAPES: shapes}))

    @classmethod
    def load(cls, path: Path | str) -> Masks:
        """Read masks that `save` wrote; nothing in the file is trusted or executed.

        Raises:
            FileError: the file is missing, truncated, corrupt, or holds no masks.
        """
        try:
            with safe_open(path, framework="pt") as file:
                shapes = json.loads((file.metadata() or {})[_SHAPES])
                names = set(file.keys())
                if not isinstance(shapes, dict) or set(shapes) != names:
                    raise ValueError("its tensors are not those that it announces")
                masks = {n: _unpack(file.get_tensor(n), shape) for n, shape in shapes.items()}
        except KeyError:
            raise FileError(f"{path} holds no masks; give a file that Masks.save wrote") from None
        except (OSError, ValueError, TypeError, SafetensorError) as error:
            raise FileError(f"cannot read masks from {path}: {error}; write it again") from None
        return cls(masks)


def _pack(mask: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(mask.detach().cpu().reshape(-1).numpy()))


def _unpack(bits: Tensor, shape: list[int]) -> Tensor:
    if not all(isinstance(size, int) and size >= 0 for size in shape):
        raise ValueError(f"{shape} is no shape")
    count = math.prod(shape)
    if bits.dtype != torch.uint8 or bits.shape != ((count + 7) // 8,):
        raise ValueError(f"{list(bits.shape)} {bits.dtype} cannot hold {shape} bits")
    flat = np.unpackbits(bits.numpy(), count=count).astype(bool)
    return torch.from_numpy(flat).reshape(shape)
