"""Calibration data: arrays from Python or a file, looked at before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from secateur import files
from secateur.arguments import shown
from secateur.compiler.graph import Tensor
from secateur.errors import UsageError
from secateur.quantization.network import Float


def read_data(path: Path) -> Any:
    """Return what a .npy file (the only input's samples) or .npz file (by input's name) holds.

    An .npz file with one array is that array, whatever its name, where numpy named it.

    Raises:
        FileError: it is missing, damaged, or holds anything but arrays of numbers.
    """
    found = files.read_arrays(path, "calibration data")
    if isinstance(found, dict) and list(found) == ["arr_0"]:
        return found["arr_0"]
    return found


def checked_data(network: Float, data: Any) -> dict[str, np.ndarray]:
    """Return calibration data by input, as the network takes them.

    Args:
        network: what is to be quantised.
        data: an array [n, ...] for a network of one input, arrays in the order of its inputs, or
            input → array. Torch tensors are taken, too.

    Raises:
        UsageError: other names, shapes or kinds of numbers; different counts or none; NaN or
            infinity; no whole number of batches where the file fixes the batch.
    """
    names = network.graph.inputs
    if not isinstance(data, Mapping):
        several = isinstance(data, Sequence) and not isinstance(data, (str, bytes))
        arrays = list(data) if several and all(map(_is_array, data)) else [data]
        if len(arrays) != len(names):
            raise UsageError(
                f"the network has the inputs {', '.join(map(repr, names))}, but the calibration "
                f"data are arrays for {len(arrays)}; give one array for each, by name"
            )
        data = dict(zip(names, arrays, strict=True))
    if set(data) != set(names):
        raise UsageError(
            f"calibration data have the names {', '.join(map(repr, data)) or 'of nothing'}, but "
            f"the network's inputs are {', '.join(map(repr, names))}; use exactly these"
        )
    found = {name: _fitting(name, network.graph.types[name], data[name]) for name in names}
    counts = {name: len(array) for name, array in found.items()}
    if len({*counts.values()}) != 1:
        said = ", ".join(f"{count} of {name!r}" for name, count in counts.items())
        raise UsageError(f"calibration data hold {said}; give as many samples of each input")
    (count,) = {*counts.values()}
    if not count:
        raise UsageError("calibration data are empty; give a few hundred samples")
    if network.samples and count % network.samples:
        raise UsageError(
            f"calibration data hold {count} samples, but the file fixes a batch of "
            f"{network.samples}; give a multiple of that"
        )
    return found


def tensors(data: Any, start: int, stop: int) -> Any:
    """Return some samples of calibration data as torch tensors, as a torch module takes them.

    Raises:
        UsageError: something among them is neither array nor tensor, or holds what torch has no
            dtype for.
    """
    import torch

    if isinstance(data, Mapping):
        return {name: tensors(value, start, stop) for name, value in data.items()}
    if isinstance(data, (tuple, list)):
        return tuple(tensors(value, start, stop) for value in data)
    if isinstance(data, np.ndarray) and data.ndim:
        some = np.ascontiguousarray(data[start:stop], data.dtype.newbyteorder("="))
        try:
            data = torch.from_numpy(some)
        except TypeError as error:
            raise UsageError(
                f"calibration data have dtype {data.dtype}, which torch has not; convert them as "
                "the network's user does"
            ) from error
        start, stop = 0, len(data)
    if not isinstance(data, torch.Tensor) or not data.dim():
        raise UsageError(
            f"calibration data are {shown(data)}; give an array or a tensor [n, ...], or several "
            "in a tuple or by name"
        )
    return data[start:stop]


def _is_array(value: object) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "shape")


def _fitting(name: str, wanted: Tensor, given: Any) -> np.ndarray:
    """Return the samples of one input in its dtype."""
    if not _is_array(given):
        raise UsageError(
            f"calibration data of input {name!r} are {shown(given)}; give an array or a tensor "
            "[n, ...]"
        )
    if hasattr(given, "detach"):  # a tensor of torch
        given = given.detach().cpu()
        given = (given.float() if str(given.dtype) == "torch.bfloat16" else given).numpy()
    array = np.asarray(given)
    if array.ndim != len(wanted.shape) or array.shape[1:] != wanted.shape[1:]:
        shape = ", ".join(map(str, ("n", *wanted.shape[1:])))
        raise UsageError(
            f"calibration data of input {name!r} have shape {array.shape}, but ({shape}) is needed"
        )
    same = array.dtype.kind in "fiub" and np.can_cast(array.dtype, wanted.dtype, "same_kind")
    if not same or (wanted.dtype.kind == "f" and array.dtype.kind != "f"):
        raise UsageError(
            f"calibration data of input {name!r} have dtype {array.dtype}, but {wanted.dtype} is "
            "needed; convert them as the network's user does"
        )
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, wanted.dtype)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UsageError(
            f"calibration data of input {name!r} hold NaN or infinity; take these samples out"
        )
    return array
