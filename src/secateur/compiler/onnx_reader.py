"""ONNX files in, graphs out: every operator in its newest form, every shape fixed.

What the file says is believed only after it was checked: a damaged or hostile file gives one
clear error.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from secateur.compiler import (
    canonical,
    fixed_inputs,
    onnx_file,
    onnx_functions,
    onnx_inputs,
    onnx_tensors,
    rewrites,
)
from secateur.compiler.graph import EMPTY, Graph, Node, unsupported
from secateur.compiler.ops import operators
from secateur.compiler.ops.refusals import reason
from secateur.compiler.passes import loops, sequences
from secateur.compiler.rewrites import qoperators
from secateur.errors import CompileError, printable

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto

BRANCHES = ("then_branch", "else_branch")  # attributes of `If`
FIRST_LOOPS = 9  # operator set from which `Scan` has today's form
_STANDARD = ("", "ai.onnx")
_TYPES = ("dtype", "output_dtype", "to")  # attributes that name an element type
_FLOAT = 1  # ONNX's number of float32
_ADOPTED = frozenset(
    (qoperators.DOMAIN, op) for op in ("DequantizeLinear", "QuantizeLinear", *qoperators.REWRITES)
)
"""Operators of ONNX Runtime: two that ONNX has as they are there, since its tools wrote 16 bit so
before; and those of its QOperator format."""


@dataclass(frozen=True)
class Model:
    """A network as it was read.

    Attributes:
        graph: constants and inputs have types; other values get theirs from the first pass.
            An `If` holds its branches as attributes: graphs without inputs, whose nodes may read
            values of the graph around them. Names are unique over all of these graphs.
        batched: the first axis of every input is free in the file, and was given a batch.
        opset: the version of the standard operators that the file was written for.
        declared: extents of values inside and of outputs, where the file has them; they are not
            believed.
    """

    graph: Graph
    batched: bool
    opset: int
    declared: Mapping[str, tuple[onnx_inputs.Dim, ...]] = field(default_factory=lambda: EMPTY)


def read(
    source: Path | bytes,
    *,
    input_shapes: Mapping[str, tuple[int, ...]] = EMPTY,
    fixed: Mapping[str, fixed_inputs.Value] = EMPTY,
    batch: int | None = None,
) -> Model:
    """Read an ONNX model.

    An input that has an initializer is a constant with that value.

    Args:
        source: the file, or its content (then no data may lie in other files).
        input_shapes: shapes for inputs whose extents are dynamic beyond the batch; -1 as the
            first extent leaves the batch free.
        fixed: inputs that become constants: input → a number, nested lists of numbers, or an
            array. One number fills the whole input.
        batch: extent of the first axis where it is dynamic in every input; 1 by default. A model
            whose batch is fixed ignores it.

    Raises:
        UsageError: an input that does not exist, a shape or an array that does not fit it, or a
            dynamic extent that nothing fixes.
        FileError: the file or its data beside it cannot be read, or is no ONNX file.
        CompileError: the model is malformed, or uses what cannot be compiled; or the package
            `onnx` is missing.
    """
    proto, folder = onnx_file.parse(source)
    opset = _opset(proto)
    known = {*operators(), *rewrites.rules(), *sequences.RULES, *loops.RULES}
    known |= {*canonical.REPLACED, "If", "CastLike"}
    graph = onnx_functions.inlined(proto, opset, known)
    return _Reader(proto, opset, folder).model(graph, proto.graph, input_shapes, fixed, batch)


def _opset(proto: ModelProto) -> int:
    versions = [entry.version for entry in proto.opset_import if entry.domain in _STANDARD]
    if len(versions) != 1:
        raise CompileError(
            "the model does not say which ONNX operator set it uses; export it again"
        )
    if not 0 <= proto.ir_version < 2**31:
        raise CompileError(
            f"the model says that its IR version is {proto.ir_version}, which is none; export it "
            "again"
        )
    (opset,) = versions
    if not canonical.OLDEST <= opset <= canonical.NEWEST:
        raise CompileError(
            f"the model uses ONNX operator set {opset}; {canonical.OLDEST} to {canonical.NEWEST} "
            "are supported: export it again, for example with operator set 18"
        )
    return int(opset)


class _Reader:
    """Reads one model: names, constants and nodes of the graph and of the graphs inside."""

    def __init__(self, proto: ModelProto, opset: int, folder: Path | None) -> None:
        from onnx import checker

        self.opset = opset
        self.folder = folder
        self.scope = canonical.Scope()
        self.functions = {(function.domain, function.name) for function in proto.functions}
        self.checker = checker
        self.context = checker.C.CheckerContext()
        self.context.ir_version = proto.ir_version
        self.context.opset_imports = {"": opset}

    def model(
        self,
        proto: GraphProto,
        weights: GraphProto,
        input_shapes: Mapping[str, tuple[int, ...]],
        fixed: Mapping[str, fixed_inputs.Value],
        batch: int | None,
    ) -> Model:
        """Read the outermost graph; the data of its initializers come from `weights`."""
        constants = self._initializers(weights)
        given = [value for value in proto.input if value.name not in constants]
        declared = {value.name: _declared(value) for value in given}
        values = fixed_inputs.arrays(declared, fixed)
        types, batched = onnx_inputs.resolve(declared, input_shapes, values, batch)
        made = [value.name for value in given] + list(constants)
        _refuse_twice(made + [output for node in proto.node for output in node.output])
        self.scope.values |= {*made, *(name for node in proto.node for name in node.output)}
        self.scope.constants |= constants | {name: np.array(values[name]) for name in values}
        names = {name: name for name in self.scope.values}
        nodes, outputs = self._body(proto, names, set(made))
        graph = Graph(
            nodes=nodes,
            inputs=tuple(types),
            outputs=outputs,
            constants=self.scope.constants,
            types=types,
        )
        inside = (*proto.value_info, *proto.output)
        said = {v.name: _declared_dims(v) for v in inside if v.type.HasField("tensor_type")}
        return Model(graph, batched, self.opset, said)

    def _branch(self, proto: GraphProto, outer: Mapping[str, str], defined: set[str]) -> Graph:
        """Read a branch of an `If`."""
        if proto.input:
            raise CompileError(f"graph {proto.name!r} is a branch of an If, and takes inputs")
        return self._inner(proto, outer, defined)

    def _inner(self, proto: GraphProto, outer: Mapping[str, str], defined: set[str]) -> Graph:
        """Read a graph inside a node; its names give way to those already taken."""
        constants = self._initializers(proto)
        taken = [value.name for value in proto.input]
        made = [*taken, *constants]
        made += [output for node in proto.node for output in node.output if output]
        _refuse_twice(made)
        names = dict(outer) | {name: self.scope.value(name) for name in made}
        self.scope.constants |= {names[name]: array for name, array in constants.items()}
        before = (defined - set(made)) | {*taken, *constants}
        nodes, outputs = self._body(proto, names, before)
        inputs = tuple(names[name] for name in taken)
        return Graph(nodes=nodes, inputs=inputs, outputs=outputs, constants={}, types={})

    def _body(
        self, proto: GraphProto, names: Mapping[str, str], defined: set[str]
    ) -> tuple[tuple[Node, ...], tuple[str, ...]]:
        """Read nodes and outputs. `names`: from the file's names to ours; `defined`: before."""
        nodes: list[Node] = []
        defined = set(defined)
        for node in _sorted(proto.node, defined):
            nodes += self._node(node, names, defined)
            defined.update(filter(None, node.output))
        if missing := [value.name for value in proto.output if value.name not in defined]:
            raise CompileError(f"output {missing[0]!r} of the model is never computed")
        _refuse_twice([value.name for value in proto.output])
        return tuple(nodes), tuple(names[value.name] for value in proto.output)

    def _node(
        self, proto: NodeProto, names: Mapping[str, str], defined: set[str]
    ) -> tuple[Node, ...]:
        wish = proto.name or f"{proto.op_type}_{next(filter(None, proto.output), '')}"
        node = Node(
            proto.op_type,
            self.scope.node(wish),
            _trimmed(names[name] if name else "" for name in proto.input),
            _trimmed(names[name] if name else "" for name in proto.output),
        )
        if proto.domain not in _STANDARD:
            known = proto.domain, proto.op_type
            if known not in _ADOPTED or known in self.functions:
                raise unsupported(node, self._foreign(proto))
            proto = _of_onnx(proto)
        if node.op == "If":
            self._check_if(proto, node)
            branches = {a.name: self._branch(a.g, names, defined) for a in proto.attribute}
            return (Node(node.op, node.name, node.inputs, node.outputs, branches),)
        if node.op in loops.RULES and self.opset >= FIRST_LOOPS:
            return (self._loop(proto, node, names, defined),)
        attributes = {a.name: self._attribute(a, node) for a in proto.attribute}
        if len(attributes) != len(proto.attribute):
            raise CompileError(f"node {node} carries an attribute twice")
        if node.op not in ("Constant", *qoperators.REWRITES):  # those ONNX does not know
            try:
                self.checker.check_node(proto, self.context)
            except self.checker.ValidationError as error:
                reason = str(error).partition("\n\n==> Context")[0].strip()
                raise CompileError(f"node {node}: {printable(reason)}") from error
        elif len(node.outputs) != 1:
            raise CompileError(f"node {node} must have one output")
        node = Node(node.op, node.name, node.inputs, node.outputs, attributes)
        return canonical.upgrade(node, self.opset, self.scope)

    def _loop(
        self, proto: NodeProto, node: Node, names: Mapping[str, str], defined: set[str]
    ) -> Node:
        graphs = [a for a in proto.attribute if a.name == "body" and a.HasField("g")]
        if len(graphs) != 1:
            raise CompileError(f"node {node} must have one body")
        attributes = {a.name: self._attribute(a, node) for a in proto.attribute if a.name != "body"}
        attributes["body"] = self._inner(graphs[0].g, names, defined)
        return Node(node.op, node.name, node.inputs, node.outputs, attributes)

    def _foreign(self, proto: NodeProto) -> str:
        if (proto.domain, proto.op_type) in self.functions:
            return (
                f"function {proto.domain}.{proto.op_type} uses another operator set than the model"
            )
        advice = "export without operators of other domains"
        if proto.op_type.startswith("Q"):  # of ONNX Runtime's QOperator format
            advice = "quantise with quant_format=QuantFormat.QDQ"
        if proto.op_type == "DynamicQuantizeLSTM":  # the one layer that `quantize_dynamic` gives so
            advice = 'quantise without it: op_types_to_quantize=["MatMul", "Gemm", "Conv"]'
        return f"operator {proto.domain}.{proto.op_type} is not one of ONNX's own; {advice}"

    def _check_if(self, proto: NodeProto, node: Node) -> None:
        graphs = {a.name: len(a.g.output) for a in proto.attribute if a.HasField("g")}
        if len(proto.attribute) != 2 or sorted(graphs) != sorted(BRANCHES) or len(node.inputs) != 1:
            raise CompileError(f"node {node} must have a condition and two branches")
        if any(count < len(node.outputs) for count in graphs.values()):
            raise CompileError(f"node {node} has a branch with too few outputs")

    def _attribute(self, proto: AttributeProto, node: Node) -> Any:
        if proto.type in (proto.GRAPH, proto.GRAPHS):
            raise unsupported(node, reason(node.op))
        where = f"attribute {proto.name!r} of node {node}"
        value: Any = None
        match proto.type:
            case proto.FLOAT:
                value = proto.f
            case proto.INT:
                value = proto.i
                if proto.name in _TYPES and value == onnx_tensors.BFLOAT16:
                    value = _FLOAT
            case proto.STRING:
                value = proto.s.decode(errors="replace")
            case proto.FLOATS:
                value = tuple(proto.floats)
            case proto.INTS:
                value = tuple(proto.ints)
            case proto.STRINGS:
                value = tuple(text.decode(errors="replace") for text in proto.strings)
            case proto.TENSOR:
                value = onnx_tensors.array(proto.t, self.folder, where)
            case proto.SPARSE_TENSOR:
                value = onnx_tensors.dense(proto.sparse_tensor, self.folder, where)
        if value is None or proto.ref_attr_name:
            raise unsupported(node, f"attribute {proto.name!r} is of a kind that is not supported")
        return value

    def _initializers(self, proto: GraphProto) -> dict[str, np.ndarray]:
        names = [tensor.name for tensor in proto.initializer]
        names += [sparse.values.name for sparse in proto.sparse_initializer]
        _refuse_twice(names)
        found = {
            tensor.name: onnx_tensors.array(tensor, self.folder, f"constant {tensor.name!r}")
            for tensor in proto.initializer
        }
        for sparse in proto.sparse_initializer:
            name = sparse.values.name
            found[name] = onnx_tensors.dense(sparse, self.folder, f"constant {name!r}")
        return found


def _declared(value: Any) -> onnx_inputs.Declared:
    where = f"input {value.name!r}"
    if not value.type.HasField("tensor_type"):
        raise CompileError(
            f"{where} is not a tensor; sequences, maps and the like are not supported"
        )
    tensor = value.type.tensor_type
    dtype = onnx_tensors.dtype_of(tensor.elem_type, where)
    dims = onnx_inputs.declared_dims(tensor.shape) if tensor.HasField("shape") else None
    return onnx_inputs.Declared(dtype, dims)


def _declared_dims(value: Any) -> tuple[onnx_inputs.Dim, ...]:
    tensor = value.type.tensor_type
    return onnx_inputs.declared_dims(tensor.shape) if tensor.HasField("shape") else ()


def _of_onnx(proto: NodeProto) -> NodeProto:
    """Return a node of another domain as ONNX's own."""
    own = type(proto)()
    own.CopyFrom(proto)
    own.domain = ""
    return own


def _trimmed(names: Iterable[str]) -> tuple[str, ...]:
    found = list(names)
    while found and not found[-1]:
        found.pop()
    return tuple(found)


def _refuse_twice(names: Collection[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise CompileError(
                f"the name {name!r} is given to two values of the model; export it again"
            )
        if name:
            seen.add(name)


def _sorted(nodes: Sequence[NodeProto], defined: Collection[str]) -> list[NodeProto]:
    """Return nodes in an order in which they can run, the file's own where it is one."""
    maker = {output: i for i, node in enumerate(nodes) for output in node.output if output}
    reads = [{name for name in _reads(node) if name and name not in defined} for node in nodes]
    waiting = []
    readers: dict[int, list[int]] = {}
    for i, node in enumerate(nodes):
        for name in reads[i]:
            if name not in maker:
                raise CompileError(f"node {_title(node)} reads {name!r}, which nothing computes")
        before = {maker[name] for name in reads[i]}
        waiting.append(len(before))
        for j in before:
            readers.setdefault(j, []).append(i)
    ready = [i for i, count in enumerate(waiting) if not count]
    heapify(ready)
    order: list[int] = []
    while ready:
        order.append(heappop(ready))
        for i in readers.get(order[-1], ()):
            waiting[i] -= 1
            if not waiting[i]:
                heappush(ready, i)
    if len(order) != len(nodes):
        stuck = nodes[min(set(range(len(nodes))) - set(order))]
        raise CompileError(f"node {_title(stuck)} waits for its own result: the graph has a cycle")
    return [nodes[i] for i in order]


def _title(node: NodeProto) -> str:
    return str(Node(node.op_type, node.name, (), ()))


def _reads(node: NodeProto) -> set[str]:
    """Return the values that a node reads, those that only its subgraphs read included."""
    names = set(node.input)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            inner = attribute.g
            inside = {name for child in inner.node for name in _reads(child)}
            inside |= {value.name for value in inner.output}
            names |= inside - {
                *(tensor.name for tensor in inner.initializer),
                *(sparse.values.name for sparse in inner.sparse_initializer),
                *(output for child in inner.node for output in child.output),
                *(value.name for value in inner.input),
            }
    return names
