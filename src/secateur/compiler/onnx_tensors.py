"""Arrays out of ONNX files: in the file itself, or in data files beside it."""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

import numpy as np

from secateur.compiler.ops.cast import ELEMENT_TYPES
from secateur.compiler.ops.rules import LIMIT
from secateur.errors import CompileError, FileError

if TYPE_CHECKING:
    from onnx import SparseTensorProto, TensorProto

MOST_DENSE = 256 * 2**20
"""Bytes of a sparse tensor with its zeros: a file of a few bytes may ask for any number."""

BFLOAT16 = 16
"""ONNX's number of an element type that numpy lacks: it is read as float32, which holds it."""

# The field that holds values which are not raw bytes, by ONNX's number of the element type.
_FIELDS = {
    1: "float_data",
    7: "int64_data",
    11: "double_data",
    12: "uint64_data",
    13: "uint64_data",
}


def dtype_of(data_type: int, where: str) -> np.dtype[Any]:
    """Return the numpy dtype that an ONNX element type is read as.

    Args:
        data_type: number of the type, as the file has it.
        where: what has that type, for the error.

    Raises:
        CompileError: the type is not supported (strings, complex and 4- to 8-bit kinds of
            numbers that numpy does not know).
    """
    if data_type == BFLOAT16:
        return np.dtype(np.float32)
    if data_type not in ELEMENT_TYPES:
        from onnx import TensorProto

        known = data_type in TensorProto.DataType.values()
        name = TensorProto.DataType.Name(data_type).lower() if known else f"number {data_type}"
        known_ones = ", ".join(sorted(map(str, ELEMENT_TYPES.values())))
        way_out = "store the model in float32" if "float" in name else f"use one of {known_ones}"
        raise CompileError(f"{where} has element type {name}, which is not supported; {way_out}")
    return ELEMENT_TYPES[data_type]


def checked_shape(dims: tuple[int, ...], where: str) -> tuple[int, ...]:
    """Return a shape if it is one: no negative extent, at most 2^31 - 1 elements.

    An extent of zero counts as one, or the others could be too large for numpy.

    Raises:
        CompileError: it is not.
    """
    if any(dim < 0 for dim in dims):
        raise CompileError(f"{where} has shape {list(dims)}: an extent is negative")
    if math.prod(max(dim, 1) for dim in dims) > LIMIT:
        raise CompileError(
            f"{where} has shape {list(dims)}: more than {LIMIT} elements are not supported"
        )
    return dims


def array(proto: TensorProto, folder: Path | None, where: str) -> np.ndarray:
    """Return a tensor of an ONNX file as a read-only array.

    Args:
        proto: the tensor.
        folder: where the file lies, for data beside it; None where that is not known.
        where: what the tensor is, for errors.

    Raises:
        CompileError: dtype or shape are not supported, or the data do not fit the shape.
        FileError: its data lie in another file that is missing, too short, or not in the folder.
    """
    dtype = dtype_of(proto.data_type, where)
    shape = checked_shape(tuple(proto.dims), where)
    stored = np.dtype("<u2") if proto.data_type == BFLOAT16 else dtype.newbyteorder("<")
    size = math.prod(shape) * stored.itemsize
    if proto.data_location == proto.EXTERNAL:
        raw = _external(proto, folder, size, where)
    elif proto.HasField("raw_data"):
        raw = proto.raw_data
    else:
        return _typed(proto, dtype, shape, where)
    if len(raw) != size:
        raise _misfit(where, shape, f"{len(raw)} bytes")
    found = np.frombuffer(raw, stored)
    if proto.data_type == BFLOAT16:
        found = _of_bits(found)
    return found.astype(dtype, copy=False).reshape(shape)


def _of_bits(bits: np.ndarray) -> np.ndarray:
    """Return what bits of bfloat16 stand for: the upper half of a float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def dense(proto: SparseTensorProto, folder: Path | None, where: str) -> np.ndarray:
    """Return a sparse tensor of an ONNX file as an ordinary array; errors as `array`."""
    shape = checked_shape(tuple(proto.dims), where)
    values = array(proto.values, folder, where)
    if (size := math.prod(shape) * values.itemsize) > MOST_DENSE:
        raise CompileError(
            f"{where} is a sparse tensor of shape {list(shape)}, {size:,} bytes once its zeros are "
            f"written out, more than {MOST_DENSE:,}: store it dense"
        )
    indices = array(proto.indices, folder, where)
    if indices.dtype != np.int64 or indices.shape not in (
        values.shape,
        (*values.shape, len(shape)),
    ):
        raise CompileError(f"{where}: indices of a sparse tensor do not match its values")
    extents = shape if indices.ndim == 2 else (math.prod(shape),)
    columns = indices.reshape(len(values), -1)
    if ((columns < 0) | (columns >= np.array(extents, np.int64))).any():
        raise CompileError(f"{where}: an index of a sparse tensor lies outside shape {list(shape)}")
    result = np.zeros(extents, values.dtype)
    result[tuple(columns.T)] = values
    return result.reshape(shape)


def _typed(
    proto: TensorProto, dtype: np.dtype[Any], shape: tuple[int, ...], where: str
) -> np.ndarray:
    values = getattr(proto, _FIELDS.get(proto.data_type, "int32_data"))
    if len(values) != math.prod(shape):
        raise _misfit(where, shape, f"{len(values)} values")
    if dtype == np.float16:  # its bits, in integers
        result = np.array(values, np.int32).astype(np.uint16).view(np.float16)
    elif proto.data_type == BFLOAT16:
        result = _of_bits(np.array(values, np.int32).astype(np.uint16))
    else:
        result = np.array(values).astype(dtype)
    result = result.reshape(shape)
    result.flags.writeable = False
    return result


def _misfit(where: str, shape: tuple[int, ...], found: str) -> CompileError:
    return CompileError(
        f"{where} has shape {list(shape)} but {found}; the file is damaged: export it again"
    )


def _external(proto: TensorProto, folder: Path | None, size: int, where: str) -> bytes:
    entries = {entry.key: entry.value for entry in proto.external_data}
    if folder is None:
        raise FileError(f"{where} has its data in another file; give the model's path, not bytes")
    path = _inside(folder, entries.get("location", ""), where)
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", size))
    except ValueError:
        offset = length = -1
    if offset < 0 or length != size:
        raise FileError(
            f"{where}: offset {entries.get('offset')} and length {entries.get('length')} in "
            f"{path.name} do not fit its {size} bytes; export the model again"
        )
    try:
        there = path.stat().st_size - offset
        data = b""
        if there >= size:  # before memory is taken for what the file only says
            with path.open("rb") as file:
                file.seek(offset)
                data = file.read(size)
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) != size:
        raise FileError(
            f"{where}: {path} ends before its {size} bytes at offset {offset}; "
            "the file is truncated: fetch or export it again"
        )
    return data


def _inside(folder: Path, location: str, where: str) -> Path:
    """Return the path of a data file, which must be a plain file in the model's folder."""
    parts = PureWindowsPath(location)  # understands both kinds of slash, and drives
    if not location or parts.anchor or ".." in parts.parts or PurePosixPath(location).anchor:
        raise FileError(
            f"{where}: its data would lie in {location!r}, outside the model's folder; "
            "a model may only name files beside it"
        )
    path = folder / location
    try:
        real = path.resolve(strict=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise FileError(
            f"{where}: its data file {path} is missing; put it beside the model"
        ) from error
    if not real.is_relative_to(folder.resolve()):
        raise FileError(f"{where}: its data file {path} is a link that leaves the model's folder")
    if not real.is_file():
        raise FileError(f"{where}: its data file {path} is not a plain file")
    return real
