"""Old forms of ONNX operators, brought to the form of the newest operator set.

Each rule turns one node, as its operator set defined it, into nodes that mean the same today.
Operators that are not in the table have not changed, or only took in more dtypes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from secateur.compiler.graph import Node, unsupported

OLDEST, NEWEST = 7, 28  # operator sets whose meaning is known here
ALWAYS = NEWEST + 1
_OWN_STATISTICS = 14  # from here on it is defined what a batch normalization in training gives
REPLACED = frozenset({"Constant", "Dropout", "Scatter", "Upsample"})  # no newest form has them


@dataclass
class Scope:
    """What has been read so far: a rule takes names and constants from here.

    Attributes:
        constants: fixed arrays by value name.
        values: names of values that are taken.
        nodes: names of nodes that are taken.
    """

    constants: dict[str, np.ndarray] = field(default_factory=dict)
    values: set[str] = field(default_factory=set)
    nodes: set[str] = field(default_factory=set)
    _next: dict[str, int] = field(default_factory=dict)

    def value(self, wish: str) -> str:
        """Return a new name for a value: the wish itself, or the wish with a number."""
        return self._new(wish, self.values)

    def node(self, wish: str) -> str:
        """Return a new name for a node: the wish itself, or the wish with a number."""
        return self._new(wish, self.nodes)

    def constant(self, wish: str, array: np.ndarray) -> str:
        """Keep an array as a new constant and return its name."""
        name = self.value(wish)
        self.constants[name] = array
        return name

    def _new(self, wish: str, taken: set[str]) -> str:
        name = wish
        while name in taken:
            self._next[wish] = self._next.get(wish, 0) + 1
            name = f"{wish}_{self._next[wish]}"
        taken.add(name)
        return name


Rule = Callable[[Node, Scope, int], tuple[Node, ...]]


def upgrade(node: Node, opset: int, scope: Scope) -> tuple[Node, ...]:
    """Return the nodes that say in the newest form what a node of an older operator set says.

    Args:
        node: as the model's operator set defines it.
        opset: the model's operator set.
        scope: gives names; constants that the new form needs are added to it. A `Constant` is
            only added to it, and leaves no node.

    Raises:
        CompileError: the node does something that only training does, or whose old meaning
            cannot be said today.
    """
    until, rule = RULES.get(node.op, (0, _same))
    return rule(node, scope, opset) if opset < until else (node,)


def _same(node: Node, scope: Scope, opset: int) -> tuple[Node, ...]:
    return (node,)


def _without(node: Node, *attributes: str) -> Node:
    return replace(
        node, attributes={k: v for k, v in node.attributes.items() if k not in attributes}
    )


def _inputs_from(*attributes: str) -> Rule:
    """Attributes (lists of integers) that became inputs, in this order."""

    def rule(node: Node, scope: Scope, opset: int) -> tuple[Node, ...]:
        inputs = list(node.inputs)
        for attribute in attributes:
            values = node.get(attribute)
            inputs.append(
                scope.constant(f"{node.name}_{attribute}", np.array(values, np.int64))
                if values is not None
                else ""
            )
        while not inputs[-1]:
            inputs.pop()
        return (replace(_without(node, *attributes), inputs=tuple(inputs)),)

    return rule


def _clip(node: Node, scope: Scope, opset: int) -> tuple[Node, ...]:
    inputs = [node.inputs[0], "", ""]
    for position, (attribute, sign) in enumerate((("min", -1.0), ("max", 1.0)), 1):
        bound = node.get(attribute)
        if bound is not None and bound != sign * float(np.finfo(np.float32).max):
            # Operator sets this old clip nothing but floats, and exporters only float32.
            inputs[position] = scope.constant(
                f"{node.name}_{attribute}", np.array(bound, np.float32)
            )
    while not inputs[-1]:
        inputs.pop()
    return (replace(_without(node, "min", "max"), inputs=tuple(inputs)),)


def _pad(node: Node, scope: Scope, opset: int) -> tuple[Node, ...]:
    pads = scope.constant(f"{node.name}_pads", np.array(node.get("pads"), np.int64))
    inputs: tuple[str, ...] = (node.inputs[0], pads)
    if value := node.get("value", 0.0):
        inputs += (scope.constant(f"{node.name}_value", np.array(value, np.float32)),)
    return (replace(_without(node, "pads", "value"), inputs=inputs),)


def _split(node: Node, scope: Scope, opset: int) -> tuple[Node, ...]:
    if opset < 13:
        (node,) = _inputs_from("split")(node, scope, opset)
    if len(node.inputs) == 1:
        node = replace(node, attributes={**node.attributes, "num_outputs": len(node.outputs)})
    return (node,)


def _dropout(node: Node, scope: Scope, opset: int) -> tuple[Node, ...]:
    if len(node.inputs) > 2 and node.inputs[2]:
        training = scope.constants.get(node.inputs[2])
        if training is None or training.any():
            raise unsupported(node, "it drops at random, as in training; export for inference")
    data = node.inputs[0]
    nodes = []
    if node.outputs[0]:
        nodes.append(Node("Identity", node.name, (data,), (node.outputs[0],)))
    if len(node.outputs) > 1:
        shape = scope.value(f"{node.name}_shape")
        kept = np.ones(1, np.dtype(np.bool_ if opset >= 10 else np.float32))
        nodes += [
            Node("Shape", scope.node(f"{node.name}_shape"), (data,), (shape,)),
            Node(
                "ConstantOfShape",
                scope.node(f"{node.name}_mask"),
                (shape,),
                (node.outputs[1],),
                {"value": kept},
            ),
        ]
    return tuple(nodes)


def _batch_normalization(node: Node, scope: Scope, opset: int) -> tuple[Node, ...]:
    if opset >= _OWN_STATISTICS and node.get("training_mode", 0):
        return (node,)
    if len(node.outputs) > 1:
        raise unsupported(node, "it updates its statistics, as in training; export for inference")
    if node.get("spatial", 1) != 1:
        raise unsupported(node, "spatial=0 normalises every position apart")
    return (_without(node, "training_mode", "spatial", "momentum"),)


def _flattening(node: Node, scope: Scope, opset: int) -> tuple[Node, ...]:
    """Softmax and its kin once worked on the input as a matrix, cut at `axis`."""
    axis = node.get("axis", 1)
    inner = replace(node, attributes={"axis": -1})
    if axis == -1:
        return (inner,)
    (data,), (result,) = node.inputs, node.outputs
    shape, flat, soft = (scope.value(f"{node.name}_{what}") for what in ("shape", "flat", "matrix"))
    return (
        Node("Shape", scope.node(f"{node.name}_shape"), (data,), (shape,)),
        Node("Flatten", scope.node(f"{node.name}_flat"), (data,), (flat,), {"axis": axis}),
        replace(inner, inputs=(flat,), outputs=(soft,)),
        Node("Reshape", scope.node(f"{node.name}_back"), (soft, shape), (result,)),
    )


def _upsample(node: Node, scope: Scope, opset: int) -> tuple[Node, ...]:
    if opset < 9:
        scales = scope.constant(f"{node.name}_scales", np.array(node.get("scales"), np.float32))
    else:
        scales = node.inputs[1]
    return (_asymmetric(node, scales, "floor"),)


def _resize(node: Node, scope: Scope, opset: int) -> tuple[Node, ...]:
    if opset == 10:
        # That set did not say how to round. The reference runtimes took the pixel below when
        # they enlarged and the pixel above when they shrank, axis by axis.
        scales = scope.constants.get(node.inputs[1])
        if node.get("mode", "nearest") != "nearest":
            return (_asymmetric(node, node.inputs[1], "floor"),)
        if scales is None or (scales.min(initial=1) < 1 < scales.max(initial=1)):
            raise unsupported(
                node,
                "operator set 10 leaves open how it rounds; export with operator set 13 or newer",
            )
        shrinks = bool(scales.min(initial=1) < 1)
        return (_asymmetric(node, node.inputs[1], "ceil" if shrinks else "floor"),)
    # An empty tensor once stood for an input that is absent.
    inputs = [
        "" if (known := scope.constants.get(name)) is not None and known.size == 0 else name
        for name in node.inputs
    ]
    while not inputs[-1]:
        inputs.pop()
    return (replace(node, inputs=tuple(inputs)),)


def _asymmetric(node: Node, scales: str, rounding: str) -> Node:
    attributes: dict[str, Any] = {
        "mode": "linear" if node.get("mode") in ("linear", "bilinear") else "nearest",
        "coordinate_transformation_mode": "asymmetric",
    }
    if attributes["mode"] == "nearest":
        attributes["nearest_mode"] = rounding
    return Node("Resize", node.name, (node.inputs[0], "", scales), node.outputs, attributes)


def _max_pool(node: Node, scope: Scope, opset: int) -> tuple[Node, ...]:
    # The order matters to the indices alone.
    return (_without(node, "storage_order") if len(node.outputs) == 1 else node,)


def _scatter(node: Node, scope: Scope, opset: int) -> tuple[Node, ...]:
    return (replace(node, op="ScatterElements"),)


def _grid_sample(node: Node, scope: Scope, opset: int) -> tuple[Node, ...]:
    names = {"bilinear": "linear", "bicubic": "cubic"}
    mode = node.get("mode", "bilinear")
    return (replace(node, attributes={**node.attributes, "mode": names.get(mode, mode)}),)


def _dft(node: Node, scope: Scope, opset: int) -> tuple[Node, ...]:
    axis = scope.constant(f"{node.name}_axis", np.array(node.get("axis", 1), np.int64))
    length = node.inputs[1] if len(node.inputs) > 1 else ""
    return (replace(_without(node, "axis"), inputs=(node.inputs[0], length, axis)),)


def _top_k(node: Node, scope: Scope, opset: int) -> tuple[Node, ...]:
    count = scope.constant(f"{node.name}_k", np.array([node.get("k")], np.int64))
    return (replace(_without(node, "k"), inputs=(*node.inputs, count)),)


def _roi_align(node: Node, scope: Scope, opset: int) -> tuple[Node, ...]:
    moved = {"coordinate_transformation_mode": "output_half_pixel"}
    return (replace(node, attributes={**node.attributes, **moved}),)


def _cast(node: Node, scope: Scope, opset: int) -> tuple[Node, ...]:
    return (_without(node, "saturate", "round_mode"),)  # they matter to float8 alone


def _constant(node: Node, scope: Scope, opset: int) -> tuple[Node, ...]:
    if len(node.attributes) != 1:
        raise unsupported(node, "a constant has exactly one value")
    ((kind, value),) = node.attributes.items()
    dtype = {
        "value": None,
        "sparse_value": None,
        "value_float": np.float32,
        "value_floats": np.float32,
        "value_int": np.int64,
        "value_ints": np.int64,
    }
    if kind not in dtype:
        raise unsupported(node, f"a constant of kind {kind} is not supported")
    scope.constants[node.outputs[0]] = np.asarray(value, dtype[kind])
    return ()


# operator: (first operator set that has today's form, how to get there from an older one)
RULES: Mapping[str, tuple[int, Rule]] = {
    "BatchNormalization": (ALWAYS, _batch_normalization),
    "Cast": (ALWAYS, _cast),
    "Clip": (11, _clip),
    "Constant": (ALWAYS, _constant),
    "DFT": (20, _dft),
    "Dropout": (ALWAYS, _dropout),
    "GridSample": (20, _grid_sample),
    "Hardmax": (13, _flattening),
    "LogSoftmax": (13, _flattening),
    "MaxPool": (ALWAYS, _max_pool),
    "Pad": (11, _pad),
    "ReduceL1": (18, _inputs_from("axes")),
    "ReduceL2": (18, _inputs_from("axes")),
    "ReduceLogSum": (18, _inputs_from("axes")),
    "ReduceLogSumExp": (18, _inputs_from("axes")),
    "ReduceMax": (18, _inputs_from("axes")),
    "ReduceMean": (18, _inputs_from("axes")),
    "ReduceMin": (18, _inputs_from("axes")),
    "ReduceProd": (18, _inputs_from("axes")),
    "ReduceSum": (13, _inputs_from("axes")),
    "ReduceSumSquare": (18, _inputs_from("axes")),
    "Resize": (ALWAYS, _resize),
    "RoiAlign": (16, _roi_align),
    "Scatter": (ALWAYS, _scatter),
    "Slice": (10, _inputs_from("starts", "ends", "axes")),
    "Softmax": (13, _flattening),
    "Split": (18, _split),
    "Squeeze": (13, _inputs_from("axes")),
    "TopK": (10, _top_k),
    "Unsqueeze": (13, _inputs_from("axes")),
    "Upsample": (ALWAYS, _upsample),
}
