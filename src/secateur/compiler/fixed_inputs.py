"""Inputs that become constants: the values that callers give, as arrays of what the file declares.

A number, or a list of numbers, is taken for the input's dtype where that holds it. An array must
have the dtype already: whoever has one means it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from secateur.arguments import Wanted, shown
from secateur.compiler.onnx_inputs import Declared, refuse_unknown
from secateur.errors import UsageError

Value = np.ndarray | float | list[Any] | tuple[Any, ...]
"""A number or truth value, nested lists of them, or an array."""

_TAKEN = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}
"""Kinds of numbers that an input of a kind takes, where they fit; a bool also takes 0 and 1."""


def _is_value(value: object) -> bool:
    return isinstance(value, (bool, int, float, list, tuple)) or hasattr(value, "dtype")


VALUES = Wanted(
    lambda given: all(map(_is_value, given.values())),
    "input → its value: a number, a list of numbers, or an array",
)


def arrays(declared: Mapping[str, Declared], given: Mapping[str, Value]) -> dict[str, np.ndarray]:
    """Return the value of each fixed input as an array of its dtype; its shape may not fit.

    One number fills the whole input, where its shape is fixed.

    Args:
        declared: inputs by name.
        given: values by input.

    Raises:
        UsageError: a name that is no input, or a value that its dtype does not hold.
    """
    refuse_unknown(given, declared)
    found = {}
    for name, value in given.items():
        dtype, dims = declared[name].dtype, declared[name].dims
        array = _array(name, value, dtype)
        if not array.ndim and dims:
            extents = [dim for dim in dims if isinstance(dim, int)]
            if len(extents) < len(dims):
                raise UsageError(
                    f"input {name!r} cannot be fixed to {shown(value)}: the model leaves an extent "
                    "of it open, which one number does not fill; give a list or an array"
                )
            array = np.full(extents, array)
        found[name] = array
    return found


def _array(name: str, value: Value, dtype: np.dtype[Any]) -> np.ndarray:
    if isinstance(value, np.ndarray) or hasattr(value, "detach"):
        array = np.asarray(value)
        if array.dtype.name == "bfloat16" and dtype == np.float32:
            array = array.astype(dtype)  # exact: a file's bfloat16 is read as float32
        if array.dtype != dtype:
            raise UsageError(
                f"input {name!r} takes {dtype}, and was fixed to an array of {array.dtype}"
            )
        return array
    refusal = UsageError(
        f"input {name!r} takes {dtype}, and cannot be fixed to {shown(value)}; give what that holds"
    )
    try:
        array = np.asarray(value)
    except ValueError:  # lists of several lengths
        raise UsageError(
            f"input {name!r} was fixed to lists of several lengths, {shown(value)}; give each row "
            "as many numbers"
        ) from None
    if not array.size:
        return array.astype(dtype)
    truths = dtype.kind == "b" and array.dtype.kind in "iu" and bool(np.isin(array, (0, 1)).all())
    if array.dtype.kind not in _TAKEN[dtype.kind] and not truths:
        raise refusal
    with np.errstate(all="ignore"):
        taken = array.astype(dtype)
    if array.dtype.kind in "iu" and dtype.kind != "b":
        whole = taken == array  # too large, negative, or rounded
    else:
        whole = ~np.isinf(taken) | np.isinf(array) if dtype.kind == "f" else np.True_
    if not np.all(whole):
        raise refusal
    return taken
