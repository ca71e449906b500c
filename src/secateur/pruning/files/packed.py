"""A tensor as bytes and back: dense, or only what is not zero and where it is.

Everything is done with the elements' bits, never with their values, so every NaN, infinity,
subnormal and negative zero comes back as it was. Three forms; the shortest is taken:

- dense: all elements;
- bits: one bit per element, the first in the lowest bit of the first byte, then the stored ones;
- gaps: one byte per stored element, how many elements are left out before it; the byte 255 says
  that 255 are left out and none is stored. It goes on to less than 255 elements before the end.

Elements are little-endian, in row-major order. What is left out is zero in all its bits. A byte
of a file therefore never stands for more than 255 elements, so its size bounds what it unpacks to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, np.dtype[Any]]
Form = Literal["dense", "bits", "gaps"]

_NAMES = (
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "bfloat16", "float32", "float64", "complex32", "complex64", "complex128"),
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
    "float4_e2m1fn_x2",
)
DTYPES: dict[str, torch.dtype] = {n: getattr(torch, n) for n in _NAMES if hasattr(torch, n)}
"""The dtypes that can be packed, by their names in torch; older versions lack the last ones."""

DIMENSIONS = 64
"""No tensor has more: torch itself cannot do much with those."""

_SKIP = 255
"""The byte of a gap that is not over yet."""


@dataclass(frozen=True, eq=False)
class Packed:
    """One tensor as bytes."""

    form: Form
    count: int
    """How many elements are stored; all of them where the form is dense."""
    content: Array
    """uint8 [bytes]: the index, if the form has one, and then the stored elements."""


def pack(tensor: Tensor, kept: Tensor | None = None) -> Packed:
    """Return a tensor in its shortest form.

    Args:
        tensor: strided, of one of `DTYPES`, any shape and device. Not changed.
        kept: bool, in its shape: what is to be stored, so that it can be read off afterwards.
            Everything else becomes zero. By default it is all that has any bit set.
    """
    raw = _raw(tensor)
    if tensor.dtype.itemsize > 8:  # no integer is as wide
        return Packed("dense", tensor.numel(), raw)
    elements = raw.view(f"<u{tensor.dtype.itemsize}")
    stored = elements != 0
    dense = True
    if kept is not None:
        given = _raw(kept).view(bool)
        dense = bool(np.array_equal(given, stored))
        stored = given
    count, total = int(np.count_nonzero(stored)), len(stored)
    index: Array = np.packbits(stored, bitorder="little")
    form: Form = "bits"
    if count < len(index) and len(gaps := _gaps(stored)) < len(index):
        form, index = "gaps", gaps
    if dense and raw.nbytes <= len(index) + count * elements.itemsize:
        return Packed("dense", total, raw)
    return Packed(form, count, np.concatenate([index, elements[stored].view(np.uint8)]))


def unpack(packed: Packed, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Return the tensor, on the CPU.

    Raises:
        ValueError: the bytes are not those of such a tensor; nothing large was allocated.
    """
    check(packed.form, packed.count, len(packed.content), dtype, shape)
    total = math.prod(shape)
    if not total:  # numpy's empty arrays have no strides that torch accepts
        return torch.empty(0, dtype=torch.uint8).view(dtype).reshape(shape)
    if packed.form == "dense":
        raw = packed.content.copy()
    else:
        places, stored = _places(packed, dtype.itemsize, total)
        elements = np.zeros(total, f"<u{dtype.itemsize}")
        elements[places] = stored.view(elements.dtype)
        raw = elements.view(np.uint8)
    if dtype == torch.bool and (raw > 1).any():
        raise ValueError("a bool is neither 0 nor 1")
    return torch.from_numpy(raw).view(dtype).reshape(shape)


def kept_of(packed: Packed, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Return which elements are stored; in the dense form, which have any bit set.

    Returns:
        bool, in the tensor's shape, on the CPU.

    Raises:
        ValueError: as in `unpack`.
    """
    check(packed.form, packed.count, len(packed.content), dtype, shape)
    if packed.form == "dense":
        kept = packed.content.reshape(-1, dtype.itemsize).any(1)
    else:
        kept = np.zeros(math.prod(shape), bool)
        kept[_places(packed, dtype.itemsize, math.prod(shape))[0]] = True
    return torch.from_numpy(kept).reshape(shape)


def check(form: str, count: int, size: int, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Refuse sizes that do not fit together, before anything is read or allocated.

    Args:
        form: of the tensor.
        count: how many elements are stored, at least 0.
        size: bytes of index and elements.
        dtype: of the tensor.
        shape: sizes of at least 0.

    Raises:
        ValueError: says what does not fit.
    """
    total, width = math.prod(shape), dtype.itemsize
    if len(shape) > DIMENSIONS:
        raise ValueError(f"{len(shape)} dimensions are too many")
    if form not in ("dense", "bits", "gaps") or (form != "dense" and width > 8):
        raise ValueError(f"a {dtype} tensor cannot be in form {form[:20]!r}")
    if count > total or (form == "dense" and count != total):
        raise ValueError(f"{count} elements of {total} cannot be stored in form {form}")
    index = size - count * width
    if form == "gaps":
        fits = count <= index <= total < _SKIP * (index + 1)
    else:
        fits = index == (0 if form == "dense" else -(-total // 8))
    if not fits:
        raise ValueError(f"{size} bytes do not fit {total} elements in form {form}")


def _raw(tensor: Tensor) -> Array:
    """Return a tensor's bytes in row-major order: a view where it can be one."""
    flat = tensor.detach().cpu().resolve_conj().resolve_neg().reshape(-1)
    if flat.stride() != (1,):  # also of one element, which is contiguous all the same
        flat = flat.clone(memory_format=torch.contiguous_format)
    raw: Array = flat.view(torch.uint8).numpy()
    return raw


def _gaps(stored: Array) -> Array:
    runs = np.diff(np.flatnonzero(stored), prepend=-1, append=len(stored)) - 1
    skips, rest = np.divmod(runs, _SKIP)
    index = np.full(len(runs) - 1 + int(skips.sum()), _SKIP, np.uint8)
    index[np.cumsum(skips[:-1] + 1) - 1] = rest[:-1]  # the run behind the last one has no element
    return index


def _places(packed: Packed, width: int, total: int) -> tuple[Array, Array]:
    """Return where the stored elements belong, a mask or positions, and their bytes.

    The sizes have been checked.
    """
    size = len(packed.content) - packed.count * width
    index, elements = packed.content[:size], packed.content[size:]
    if packed.form == "bits":
        mask = np.unpackbits(index, bitorder="little").view(bool)
        if np.count_nonzero(mask) != packed.count or mask[total:].any():
            raise ValueError("the bits of an index are not as many as its elements")
        return mask[:total], elements
    stored = index != _SKIP
    ends = np.cumsum(index + stored.astype(np.int64))
    reached = int(ends[-1]) if size else 0
    if np.count_nonzero(stored) != packed.count or not reached <= total < reached + _SKIP:
        raise ValueError("the gaps of an index do not fit its elements")
    return ends[stored] - 1, elements
