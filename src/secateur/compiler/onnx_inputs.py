"""Which shape each input of a model gets: from the file, from the caller, from the batch."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from secateur.compiler.graph import Tensor
from secateur.compiler.onnx_tensors import checked_shape
from secateur.errors import UsageError, printable

Dim = int | str | None  # fixed; dynamic and named; dynamic without a name

_NAMELESS = re.compile(r"\s*(\W*|-?\d+|none|null|unk(nown)?(_*\d+)?|dyn(amic)?)\s*", re.IGNORECASE)
"""What exporters write for an extent that they do not know: two of them need not be equal."""


MOST_SETTING = 8
"""Elements of an input that says how to compute, not what on: a rate, a length, a few flags."""


@dataclass(frozen=True)
class Declared:
    """An input as the file declares it; `dims` is None where not even the rank is given."""

    dtype: np.dtype[Any]
    dims: tuple[Dim, ...] | None


def resolve(
    declared: Mapping[str, Declared],
    given: Mapping[str, tuple[int, ...]],
    fixed: Mapping[str, np.ndarray],
    batch: int | None,
) -> tuple[dict[str, Tensor], bool]:
    """Return the type of every input that stays an input, and whether the model is batched.

    A dynamic extent that carries a name is the same wherever the name is: to give it for one
    input gives it for all.

    Args:
        declared: inputs by name, in order.
        given: shapes by input; -1 first leaves the batch free.
        fixed: arrays of the right dtype by input; these inputs become constants.
        batch: extent of the first axis, where it is dynamic in every input; 1 where None.

    Raises:
        UsageError: a name that is no input, a shape that contradicts the file, or a dynamic
            extent that nothing fixes.
        CompileError: a negative or huge extent.
    """
    if batch is not None and batch < 1:
        raise UsageError(f"a batch of {batch} makes no sense; give at least 1")
    refuse_unknown((*given, *fixed), declared)
    bound = extents(declared, fixed)
    shapes = {name: entry.dims for name, entry in declared.items() if name not in fixed}
    for name, shape in given.items():
        if any(dim < (-1 if axis == 0 else 0) for axis, dim in enumerate(shape)):
            raise UsageError(
                f"shape {list(shape)} for input {name!r} has a negative extent; "
                "only the first may be -1, which leaves the batch free"
            )
        met = _meet(name, declared[name].dims, shape, bound)
        if name in shapes:
            shapes[name] = met
    for name, dims in shapes.items():
        if dims is None:
            raise UsageError(f"input {name!r} has no shape; {_advice(name, (None, 3, None, None))}")
        shapes[name] = tuple(bound.get(d, d) if isinstance(d, str) else d for d in dims)
    return _with_batch(declared, shapes, batch)


def extents(declared: Mapping[str, Declared], arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Return the named extents that inputs have by their values.

    Raises:
        UsageError: a value does not fit what the file declares.
    """
    found: dict[str, int] = {}
    for name, array in arrays.items():
        _meet(name, declared[name].dims, array.shape, found)
    return found


def refuse_unknown(names: Iterable[str], declared: Mapping[str, Declared]) -> None:
    """Refuse a name that is no input.

    Raises:
        UsageError: names the inputs.
    """
    for name in names:
        if name not in declared:
            raise UsageError(
                f"the model has no input {name!r}; its inputs are "
                f"{', '.join(map(repr, declared)) or 'none'}"
            )


def _with_batch(
    declared: Mapping[str, Declared],
    shapes: Mapping[str, tuple[Dim, ...] | None],
    batch: int | None,
) -> tuple[dict[str, Tensor], bool]:
    first = [dims[0] if dims else 0 for dims in shapes.values()]
    batched = bool(first) and not any(isinstance(dim, int) for dim in first)
    names = {dim for dim in first if isinstance(dim, str)}
    types: dict[str, Tensor] = {}
    for name, known in shapes.items():
        dims = known or ()
        dims = (batch or 1, *dims[1:]) if batched else dims
        dynamic = [axis for axis, dim in enumerate(dims) if not isinstance(dim, int)]
        if dynamic:
            what = "tied to the batch" if batched and dims[dynamic[0]] in names else "dynamic"
            keeps = [n for n, sizes in shapes.items() if n != name and _is_setting(sizes)]
            more = f", or leave the batch free and give {value_option(keeps)}" if keeps else ""
            raise UsageError(
                f"axis {dynamic[0]} of input {name!r} is {what}; {_advice(name, dims)}{more}"
            )
        where = f"input {name!r}"
        shape = checked_shape(tuple(dim for dim in dims if isinstance(dim, int)), where)
        types[name] = Tensor(declared[name].dtype, shape)
    return types, batched


def _is_setting(dims: tuple[Dim, ...] | None) -> bool:
    """Whether an input of this shape says how to compute, so that nobody has a batch of it."""
    fixed = [dim for dim in dims or () if isinstance(dim, int)]
    return dims is not None and len(fixed) == len(dims) and prod(fixed) <= MOST_SETTING


def _meet(
    name: str, dims: tuple[Dim, ...] | None, shape: tuple[int, ...], bound: dict[str, int]
) -> tuple[Dim, ...]:
    """Check a shape against the declared one, and note what it says about named extents."""
    if dims is None:
        return tuple(None if dim < 0 else dim for dim in shape)
    known = list(dims)
    fits = len(shape) == len(dims)
    for axis, (dim, extent) in enumerate(zip(dims, shape, strict=False)):
        if extent < 0:  # stays free, if it is
            fits &= not isinstance(dim, int) or dim == 0
            known[axis] = dim or None
            continue
        if isinstance(dim, str):
            fits &= bound.setdefault(dim, extent) == extent
        elif dim:  # an extent of 0 gives way
            fits &= dim == extent
        known[axis] = extent
    if not fits:
        raise UsageError(
            f"input {name!r} has shape [{', '.join(_spelt(dims))}] in the model, "
            f"which {list(shape)} does not fit"
        )
    return tuple(known)


def _spelt(dims: tuple[Dim, ...]) -> list[str]:
    return ["?" if dim is None else printable(str(dim)) for dim in dims]


def _advice(name: str, dims: tuple[Dim, ...]) -> str:
    example = ",".join(
        str(dim) if isinstance(dim, int) else "1" if axis == 0 else "32"
        for axis, dim in enumerate(dims)
    )
    return f"fix it, for example with {option(name, example)}"


def option(name: str, extents: str) -> str:
    """Return what fixes an input's shape, in Python and quoted for a shell as the name needs it."""
    shape = f"{{{name!r}: ({extents.replace(',', ', ')},)}}"
    word = shlex.quote(f"{name}={extents}")
    return f"input_shapes={printable(shape)} from Python, --input-shape {printable(word)}"


def value_option(names: Iterable[str]) -> str:
    """Return what fixes the values of inputs, on the command line and in Python."""
    listed = list(names)
    words = " ".join(f"--input-value {shlex.quote(f'{name}=VALUE')}" for name in listed)
    inside = ", ".join(f"{name!r}: VALUE" for name in listed)
    return printable(f"{words} (fixed={{{inside}}} from Python)")


def declared_dims(proto: Any) -> tuple[Dim, ...]:
    """Return the extents of a TensorShapeProto.

    Exporters write an unknown extent as nothing, a negative number, or a name that says so (`?`,
    `None`, `unk__12`): each is dynamic without a name. Some write 0, which may be meant.
    """
    dims: list[Dim] = []
    for dim in proto.dim:
        if dim.HasField("dim_value"):
            dims.append(dim.dim_value if dim.dim_value >= 0 else None)
        else:
            dims.append(None if _NAMELESS.fullmatch(dim.dim_param) else dim.dim_param)
    return tuple(dims)
