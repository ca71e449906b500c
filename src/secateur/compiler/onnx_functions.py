"""Calls of functions replaced by what they do, before a model is read.

Functions are those that a model brings along, and operators without a meaning here that ONNX
itself defines by simpler ones (Mish, GroupNormalization, ...).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from secateur.errors import CompileError, printable

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

MAX_NODES = 1_000_000  # functions that call functions grow exponentially
MAX_DEPTH = 200


def inlined(model: ModelProto, opset: int, known: Collection[str]) -> GraphProto:
    """Return the model's graph without calls of functions.

    Initializers keep names, dtypes and shapes there, but lose their data.

    Args:
        model: it is not changed.
        opset: its version of the standard operators.
        known: operators that have a meaning here, and are left alone.

    Raises:
        CompileError: functions call themselves or grow without bound.
    """
    from onnx import inliner

    if not model.functions and not _expandable(model.graph.node, opset, known):
        return model.graph
    _refuse_growth(model)
    model = _without_data(model)
    try:
        if model.functions:
            model = inliner.inline_local_functions(model)
    except Exception as error:  # whatever C++ raised
        reason = printable(str(error).strip()) or type(error).__name__
        raise CompileError(f"the model's functions cannot be expanded: {reason}") from error
    tried: set[str] = set()
    while wanted := _expandable(model.graph.node, opset, known) - tried:
        op = min(wanted)
        tried.add(op)  # what is still there afterwards is refused later, by name
        _write_defaults(model, op, opset)
        with suppress(Exception):  # whatever C++ raised
            model = inliner.inline_selected_functions(
                model, [("", op)], inline_schema_functions=True
            )
    return model.graph


def all_nodes(nodes: Collection[NodeProto]) -> Iterator[NodeProto]:
    """Yield nodes, and those of their subgraphs."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from all_nodes(attribute.g.node)


def _expandable(nodes: Collection[NodeProto], opset: int, known: Collection[str]) -> set[str]:
    from onnx import defs

    found = {node.op_type for node in all_nodes(nodes) if node.domain in ("", "ai.onnx")}
    wanted = set()
    for op in found - set(known):
        if defs.has(op, opset, ""):
            schema: Any = defs.get_schema(op, opset, "")
            if schema.has_function or schema.has_context_dependent_function:
                wanted.add(op)
    return wanted


def _write_defaults(model: ModelProto, op: str, opset: int) -> None:
    """Write out attributes that nodes leave to their defaults: the inliner would lose them."""
    from onnx import defs

    schema = defs.get_schema(op, opset, "")
    for node in all_nodes(model.graph.node):
        if node.op_type == op:
            there = {attribute.name for attribute in node.attribute}
            node.attribute.extend(
                attribute.default_value
                for name, attribute in schema.attributes.items()
                if name not in there and attribute.default_value.name
            )


def _refuse_growth(model: ModelProto) -> None:
    """Count the nodes that inlining will make, without making them."""
    bodies = {(f.domain, f.name, f.overload): list(all_nodes(f.node)) for f in model.functions}
    sizes: dict[tuple[str, str, str], int] = {}

    def size(nodes: Collection[NodeProto], path: tuple[tuple[str, str, str], ...]) -> int:
        total = 0
        if len(path) > MAX_DEPTH:
            raise CompileError(f"the model's functions are nested deeper than {MAX_DEPTH}")
        for node in nodes:
            key = (node.domain, node.op_type, node.overload)
            if key in path:
                name = printable(f"{node.domain}.{node.op_type}")
                raise CompileError(
                    f"function {name} calls itself, directly or not; such a model has no end"
                )
            if key in bodies and key not in sizes:
                sizes[key] = size(bodies[key], (*path, key))
            total += sizes.get(key, 1)
        return total

    if size(list(all_nodes(model.graph.node)), ()) > MAX_NODES:
        raise CompileError(f"the model's functions expand to more than {MAX_NODES} nodes")


def _without_data(model: ModelProto) -> ModelProto:
    from onnx import ModelProto

    bare = ModelProto()
    bare.ir_version = model.ir_version
    bare.opset_import.extend(model.opset_import)
    bare.functions.extend(model.functions)
    bare.graph.name = model.graph.name
    bare.graph.node.extend(model.graph.node)
    bare.graph.input.extend(model.graph.input)
    bare.graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        kept = bare.graph.initializer.add()
        kept.name, kept.data_type = tensor.name, tensor.data_type
        kept.dims.extend(tensor.dims)
    for sparse in model.graph.sparse_initializer:
        bare.graph.initializer.add().name = sparse.values.name
    return bare
