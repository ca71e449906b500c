"""Inputs and outputs of an engine: what arrays they take and give, and where these lie."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import numpy as np

from secateur.errors import UsageError

Array = np.ndarray[Any, np.dtype[Any]]

HALVES = ("bfloat16", "float16")


class Port:
    """An input or output."""

    def __init__(self, described: Mapping[str, Any], merged: bool = False) -> None:
        self.name = str(described["name"])
        self.dtype = np.dtype(str(described["dtype"]))
        self.shape = tuple(map(int, described["shape"]))
        self.merged = merged
        indices = described.get("indices")
        self.indices = None if indices is None else (int(indices[0]), int(indices[1]))
        """The least and the greatest number that it may hold, where it picks from an axis."""
        self.boolean = self.dtype == np.bool_
        self._as_is = None if self.boolean else self.dtype
        self._one = (1, *self.shape)

    def merge(self, output: Array) -> Array:
        """Return an output with the rows of a sample, if it has some, among those of the others."""
        if not self.merged:
            return output
        return output.reshape(len(output) * self.shape[0], *self.shape[1:])

    def describe(self, batched: bool) -> str:
        """Return dtype and shape, as messages have them."""
        axes = ", ".join([*(["batch"] if batched else []), *map(str, self.shape)])
        return f"{self.dtype}[{axes}]"

    def empty(self, batch: int | None) -> Array:
        """Return an array for an output, of so many samples; None: the network has no batch."""
        shape = self._one if batch == 1 else self.shape if batch is None else (batch, *self.shape)
        return np.empty(shape, self.dtype)

    def check(self, value: Any, batched: bool) -> Array:
        """Return an array as C wants it: this dtype and shape, contiguous, aligned."""
        # One sample is mostly right as it is: a small network takes no longer than what is below.
        if type(value) is np.ndarray and value.dtype is self._as_is and value.flags.carray:
            extents = value.shape
            if extents == self._one if batched else extents == self.shape:
                return value
        array = self._array(value, batched)
        halves = array.dtype != self.dtype == np.float32 and array.dtype.name in HALVES
        if halves:
            array = array.astype(np.float32)  # exact: a network of these is computed in float32
        shape = array.shape[1:] if batched and array.ndim else array.shape
        if array.dtype != self.dtype or shape != self.shape or (batched and not array.ndim):
            raise UsageError(
                f"input {self.name!r} must be {self.describe(batched)}, "
                f"got {array.dtype}{list(array.shape)}{self._hint(array, shape, batched)}"
            )
        if self.boolean:  # a view of other bytes may hold more than 0 and 1
            return np.not_equal(array.view(np.uint8), 0, order="C")
        if array.flags.c_contiguous and array.flags.aligned:
            return array
        return np.array(array, order="C")

    def refuse_outside(self, array: Array) -> None:
        """Refuse an input with an index outside of the axis that it picks from.

        Raises:
            UsageError: says which index, where it is, and what it may be.
        """
        if self.indices is None:
            return
        low, high = self.indices
        bad = np.argwhere((array < low) | (array > high))
        if len(bad):
            at, more = tuple(bad[0]), len(bad) - 1
            raise UsageError(
                f"input {self.name!r} has {array[at]} at {list(map(int, at))}"
                f"{f' and {more:,} more like it' if more else ''}, but picks one of {high + 1:,}: "
                f"give 0 to {high:,}, or {low:,} to -1, which count from the end"
            )

    def _array(self, value: Any, batched: bool) -> Array:
        try:
            return np.asarray(value)
        except MemoryError:
            raise
        except Exception as error:  # whatever a value's own code raises: tensors with gradients
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise UsageError(
                f"input {self.name!r} must be {self.describe(batched)}, but numpy makes no array "
                f"of a {type(value).__name__}: {reason}"
            ) from error

    def _hint(self, array: Array, shape: tuple[int, ...], batched: bool) -> str:
        if batched and array.shape == self.shape and array.dtype == self.dtype:
            return "; add an axis for the batch: x[None]"
        if shape == self.shape and array.dtype.kind in "fiub":
            return f"; convert it: x.astype(np.{self.dtype})"
        return ""


_addressof, _from_buffer = ctypes.addressof, ctypes.c_char.from_buffer


def address(array: Array) -> int:
    """Return where an array's first element lies in memory."""
    try:
        return _addressof(_from_buffer(array.data))  # in a quarter of the time of what is below
    except (TypeError, ValueError):  # it may not be written to, or is empty
        return int(array.__array_interface__["data"][0])
