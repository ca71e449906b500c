"""What an ONNX file holds, without compiling it: inputs, outputs, operators, weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from secateur.compiler import onnx_file, onnx_inputs, onnx_tensors
from secateur.compiler.ops.cast import ELEMENT_TYPES

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto


def described(path: Path) -> dict[str, Any]:
    """Return what a file holds, as JSON values.

    Returns:
        `bytes` with the files that its weights lie in; `producer`; `opset` of the standard
        operators; `inputs` and `outputs`: `name`, `dtype`, and `shape`, in which an extent that is
        free is a name or null, or null where the file gives none; `operators`, name → how many,
        those in branches and loops included; `tensors`: `name`, `shape`, `dtype`, `elements` and
        `nonzero` of each constant.

    Raises:
        FileError: it cannot be read, or is no ONNX file, or lacks its weights.
        CompileError: a constant is of a dtype that is not known, or damaged.
    """
    proto, folder = onnx_file.parse(path)
    given = {tensor.name for tensor in proto.graph.initializer}
    found = Counter(_title(node.domain, node.op_type) for node in _nodes(proto.graph))
    beside = {
        entry.value
        for tensor in proto.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return {
        "tensors": [_weight(name, tensor, folder) for name, tensor in _constants(proto.graph)],
        "bytes": path.stat().st_size
        + sum(file.stat().st_size for name in beside if (file := path.parent / name).is_file()),
        "producer": " ".join(filter(None, (proto.producer_name, proto.producer_version))),
        "opset": _opset(proto),
        "inputs": _ports([value for value in proto.graph.input if value.name not in given]),
        "outputs": _ports(proto.graph.output),
        "operators": dict(sorted(found.items(), key=lambda item: (-item[1], item[0]))),
    }


def _opset(proto: ModelProto) -> int | None:
    return next((int(e.version) for e in proto.opset_import if e.domain in ("", "ai.onnx")), None)


def _title(domain: str, op: str) -> str:
    return op if domain in ("", "ai.onnx") else f"{domain}.{op}"


def _nodes(graph: GraphProto) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def _constants(graph: GraphProto) -> Iterator[tuple[str, TensorProto]]:
    yield from ((tensor.name, tensor) for tensor in graph.initializer)
    for node in _nodes(graph):
        if node.op_type == "Constant" and node.output:
            yield from ((node.output[0], a.t) for a in node.attribute if a.HasField("t"))


def _weight(name: str, tensor: TensorProto, folder: Path | None) -> dict[str, Any]:
    array = onnx_tensors.array(tensor, folder, f"constant {name!r}")
    return {
        "name": name,
        "shape": list(array.shape),
        "dtype": "bfloat16" if tensor.data_type == onnx_tensors.BFLOAT16 else array.dtype.name,
        "elements": array.size,
        "nonzero": int(np.count_nonzero(array)),
    }


def _ports(values: Sequence[ValueInfoProto]) -> list[dict[str, Any]]:
    from onnx import TensorProto

    ports = []
    for value in values:
        kind = value.type.tensor_type
        known = kind.elem_type in TensorProto.DataType.values()
        dtype = TensorProto.DataType.Name(kind.elem_type).lower() if known else "unknown"
        if known and kind.elem_type in ELEMENT_TYPES:
            dtype = onnx_tensors.dtype_of(kind.elem_type, value.name).name
        whole = value.type.HasField("tensor_type") and kind.HasField("shape")
        shape = list(onnx_inputs.declared_dims(kind.shape)) if whole else None
        ports.append({"name": value.name, "dtype": dtype, "shape": shape})
    return ports
