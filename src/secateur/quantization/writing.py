"""A graph of ONNX's own operators, written as an ONNX file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from secateur.compiler.graph import Graph, Node, fresh
from secateur.compiler.ops.cast import ELEMENT_TYPES
from secateur.errors import CompileError, printable
from secateur.quantization.network import COUNTS, Counted

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto, ValueInfoProto

OPSET = 21
"""Oldest operator set that is written: ONNX Runtime has had it since 1.18."""

IR = 10
"""Version of the file format that goes with it."""

BATCH = "batch"
"""What the free number of samples is called."""

_NUMBERS = {dtype: number for number, dtype in ELEMENT_TYPES.items()}


def content(
    graph: Graph,
    *,
    counted: Mapping[str, Counted],
    growing: Mapping[str, tuple[int, ...]],
    name: str = "network",
) -> bytes:
    """Return the content of an ONNX file, checked by ONNX's own checker.

    Args:
        graph: its nodes are ONNX's own operators; inputs and outputs have types.
        counted: constants that depend on the number of samples; they are computed from an input.
        growing: by input or output, its axes that grow with the number of samples.
        name: of the graph.

    Raises:
        CompileError: an operator is not one of ONNX's, or the checker refuses the file, or it is
            larger than 2 GB, which needs files beside it.
    """
    import onnx
    from onnx import checker, helper

    parts = _Parts(graph, counted)
    nodes = [made for node in graph.nodes for made in parts.nodes(node)]
    proto = helper.make_model(
        helper.make_graph(
            [*parts.first, *nodes, *parts.last()],
            name,
            [_port(graph, value, growing) for value in graph.inputs],
            [_port(graph, value, growing) for value in graph.outputs],
            [_tensor(array, value) for value, array in parts.constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", _opset(graph))],
        ir_version=IR,
        producer_name="secateur",
    )
    try:
        made = proto.SerializeToString()
        checker.check_model(made, full_check=True)
    except (checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CompileError(
            f"ONNX's checker refuses the network that was made: {printable(reason)}; this is a "
            "defect of secateur: report it"
        ) from error
    except Exception as error:  # protobuf's own for files above 2 GB, which carries no types
        raise CompileError(
            f"the network cannot be written as one ONNX file: {printable(str(error))}; it must be "
            "smaller than 2 GB"
        ) from error
    return bytes(made)


def _opset(graph: Graph) -> int:
    """Return the oldest operator set, from `OPSET` on, that has all operators."""
    from onnx import defs

    found = OPSET
    for node in graph.nodes:
        try:
            while True:
                try:
                    defs.get_schema(node.op, found)
                    break
                except defs.SchemaError:
                    if found >= defs.onnx_opset_version():
                        raise
                    found += 1
        except defs.SchemaError as error:
            raise CompileError(
                f"node {node} cannot be written to ONNX, which has no such operator"
            ) from error
    return found


class _Parts:
    """What a file consists of, as nodes are written.

    Attributes:
        constants: initializers.
        first: nodes that compute constants from the number of samples.
    """

    def __init__(self, graph: Graph, counted: Mapping[str, Counted]) -> None:
        self.graph, self.counted = graph, counted
        used = {value for node in graph.nodes for value in node.inputs} | {*graph.outputs}
        self.constants = {
            value: array
            for value, array in graph.constants.items()
            if value in used and value not in counted and value not in graph.outputs
        }
        self.first: list[NodeProto] = []
        self.taken = {*graph.types, *used}
        self.made: dict[str, str] = {}

    def nodes(self, node: Node) -> Iterator[NodeProto]:
        """Yield what a node becomes."""
        from onnx import helper

        attributes: dict[str, Any] = dict(node.attributes)
        inputs = list(node.inputs)
        if node.op == "Reshape" and inputs[1] in self.counted:
            shape = self._reshape(node)
            if shape is not None:
                inputs[1] = self._constant(f"{node.name}_shape", shape)
                attributes.pop("allowzero", None)
        inputs = [self._value(name) for name in inputs]
        proto = helper.make_node(node.op, inputs, list(node.outputs), name=node.name)
        for name, value in attributes.items():
            if isinstance(value, tuple) and not value:  # the helper cannot tell of what
                continue
            plain = _tensor(value, "") if isinstance(value, np.ndarray) else value
            plain = list(plain) if isinstance(plain, tuple) else plain
            proto.attribute.append(helper.make_attribute(name, plain))
        yield proto

    def last(self) -> Iterator[NodeProto]:
        """Yield nodes that give outputs which are constants."""
        from onnx import helper

        for value in self.graph.outputs:
            if value in self.graph.constants:
                inner = self._constant(f"{value}_constant", self.graph.constants[value])
                yield helper.make_node("Identity", [inner], [value], name=f"{value}_is")

    def _reshape(self, node: Node) -> np.ndarray | None:
        """Return the shape of a Reshape with 0 or -1 in the place that counts samples."""
        line = self.counted[node.inputs[1]]
        if line.first is None or line.slope is None:
            return None
        grows = np.flatnonzero(line.slope)
        shape = np.array(line.first, np.int64)
        others = np.delete(shape, grows)
        if len(grows) != 1 or (others < 1).any():
            return None
        (place,) = grows
        given = self.graph.types[node.inputs[0]].shape
        new = self.graph.types[node.outputs[0]].shape
        shape[place] = -1
        if place == 0 and given[:1] == new[:1]:
            shape[place] = 0
        return shape

    def _value(self, name: str) -> str:
        if name not in self.counted:
            return name
        if name not in self.made:
            self.made[name] = self._computed(name, self.counted[name])
        return self.made[name]

    def _computed(self, name: str, how: Counted) -> str:
        """Return a constant as it is computed from the number of samples."""
        count = self._count()
        if how.row is None:
            assert how.first is not None
            assert how.slope is not None
            number = _NUMBERS[how.first.dtype]
            if how.first.dtype != np.int64:
                count = self._node("Cast", f"{name}_count", count, to=number)
            slope = self._constant(f"{name}_slope", how.slope)
            times = self._node("Mul", f"{name}_times", count, slope)
            line = self._node(
                "Add", f"{name}_line", times, self._constant(f"{name}_first", how.first)
            )
            if how.first.ndim:
                return line
            axis = self._constant(f"{name}_axis", np.zeros(1, np.int64))
            return self._node("Squeeze", f"{name}_scalar", line, axis)
        before, behind = how.row.shape[: how.axis], how.row.shape[how.axis :]
        parts = [
            self._constant(f"{name}_before", np.array(before, np.int64)),
            count,
            self._constant(f"{name}_behind", np.array(behind, np.int64)),
        ]
        shape = self._node("Concat", f"{name}_shape", *parts, axis=0)
        row = self._constant(f"{name}_row", np.expand_dims(how.row, how.axis))
        rows = self._node("Expand", f"{name}_rows", row, shape)
        if how.step is not None:
            rows = self._node("Add", f"{name}_stepped", rows, self._steps(name, how.step, how.axis))
        whole = self._constant(f"{name}_whole", np.array([*before, -1, *behind[1:]], np.int64))
        return self._node("Reshape", f"{name}_parts", rows, whole)

    def _steps(self, name: str, step: np.ndarray, axis: int) -> str:
        """Return n times a step for each sample n, along an axis of its own."""
        ends = [self._constant(f"{name}_{n}", np.array(n, np.int64)) for n in (0, 1)]
        zero = self._constant(f"{name}_axis", np.zeros(1, np.int64))
        count = self._node("Squeeze", f"{name}_count", self._count(), zero)
        numbers = self._node("Range", f"{name}_numbers", ends[0], count, ends[1])
        if step.dtype != np.int64:
            numbers = self._node("Cast", f"{name}_cast", numbers, to=_NUMBERS[step.dtype])
        along = np.array([-1, *[1] * (step.ndim - axis)], np.int64)
        column = self._constant(f"{name}_column", along)
        column = self._node("Reshape", f"{name}_along", numbers, column)
        each = self._constant(f"{name}_step", np.expand_dims(step, axis))
        return self._node("Mul", f"{name}_steps", column, each)

    def _count(self) -> str:
        """Return the number of samples, [1] of int64."""
        if "" not in self.made:
            self.made[""] = self._node("Shape", BATCH, self.graph.inputs[0], start=0, end=1)
        return self.made[""]

    def _node(self, op: str, wish: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        name = self._new(wish)
        self.first.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def _constant(self, wish: str, array: np.ndarray) -> str:
        name = self._new(wish)
        self.constants[name] = array
        return name

    def _new(self, wish: str) -> str:
        name = fresh(self.taken, wish)
        self.taken.add(name)
        return name


def _tensor(array: np.ndarray, name: str) -> TensorProto:
    from onnx import numpy_helper

    return numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)


def _port(graph: Graph, value: str, growing: Mapping[str, tuple[int, ...]]) -> ValueInfoProto:
    from onnx import helper

    tensor = graph.types[value]
    shape: list[int | str | None] = list(tensor.shape)
    for axis in growing.get(value, ()):
        shape[axis] = BATCH if axis == 0 and tensor.shape[0] == COUNTS[0] else None
    return helper.make_tensor_value_info(value, _NUMBERS[tensor.dtype], shape)
