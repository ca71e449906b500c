"""ONNX files whose inputs became constants, so that every engine gets the same network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.compiler import fixed_inputs, onnx_file, onnx_inputs, onnx_tensors
from secateur.compiler.fixed_inputs import Value
from secateur.errors import FileError, printable

if TYPE_CHECKING:
    from onnx import ModelProto

MOST = 2**30
"""Bytes of a file; of a larger one the weights lie beside it, as ONNX asks of 2 GB."""


def fixed(path: Path, values: Mapping[str, Value], folder: Path) -> Path:
    """Write a model with some inputs as constants, and return its path.

    Args:
        path: of the model.
        values: input → a number, nested lists, or an array.
        folder: to make, and write into under the same name.

    Raises:
        UsageError: a name that is no input, or a value that does not fit it.
        FileError: the model, or its data beside it, cannot be read.
    """
    import onnx

    proto, where = onnx_file.parse(path)
    _load_data(proto, where or path.parent, path)
    graph = proto.graph
    known = {tensor.name for tensor in graph.initializer}
    free = {value.name: value for value in graph.input if value.name not in known}
    declared = {name: _declared(name, value.type.tensor_type) for name, value in free.items()}
    arrays = fixed_inputs.arrays(declared, values)
    extents = onnx_inputs.extents(declared, arrays)
    for value in free.values():
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in extents:
                dim.dim_value = extents[dim.dim_param]
    for name, array in arrays.items():
        kind = onnx.helper.tensor_dtype_to_np_dtype(free[name].type.tensor_type.elem_type)
        graph.initializer.append(onnx.numpy_helper.from_array(array.astype(kind), name))
        graph.input.remove(free[name])
    folder.mkdir()
    to = folder / path.name
    onnx.save(proto, to, save_as_external_data=proto.ByteSize() > MOST, location="weights")
    return to


def _declared(name: str, kind: Any) -> onnx_inputs.Declared:
    return onnx_inputs.Declared(
        onnx_tensors.dtype_of(kind.elem_type, f"input {name!r}"),
        onnx_inputs.declared_dims(kind.shape) if kind.HasField("shape") else None,
    )


def _load_data(proto: ModelProto, folder: Path, path: Path) -> None:
    """Take data that lie beside a model into it."""
    from onnx import checker
    from onnx.external_data_helper import load_external_data_for_model

    try:
        load_external_data_for_model(proto, str(folder))
    except (OSError, ValueError, checker.ValidationError) as error:
        raise FileError(
            f"cannot read the data of {path}: {printable(str(error))}; put its data files beside it"
        ) from error
