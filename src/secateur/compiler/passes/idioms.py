"""Recognises activations and layer normalization that an exporter spelt out in arithmetic.

What such nodes compute is read as a polynomial, so neither the order of operands nor the way that
constants are spread over the nodes matters: x * 0.5 * (1 + erf(x / 1.4142)) is Gelu however it is
written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import product
from math import inf, isclose, pi, sqrt

import numpy as np

from secateur.compiler.graph import Graph, Node, Tensor, fresh
from secateur.compiler.passes.identity import sweep

Powers = tuple[int, int]
Polynomial = dict[Powers, float]
"""(power of x, power of t) -> coefficient, where t is a function of x."""

ONE, X, T, XT = (0, 0), (1, 0), (0, 1), (1, 1)
_DEPTH = 8  # nodes from an idiom's function to its first node, and to its last
_TANH = sqrt(2 / pi)


@dataclass(frozen=True)
class Idiom:
    """An activation spelt out as outer(x, t), where t = function(inner(x))."""

    function: str
    inner: Polynomial
    outer: Polynomial
    activation: str
    alpha: float = 0.0
    beta: float = 0.0


IDIOMS = (
    Idiom("Erf", {X: sqrt(0.5)}, {X: 0.5, XT: 0.5}, "Gelu"),
    Idiom("Tanh", {X: _TANH, (3, 0): 0.044715 * _TANH}, {X: 0.5, XT: 0.5}, "GeluTanh"),
    Idiom("Sigmoid", {X: 1}, {XT: 1}, "Silu"),
    Idiom("HardSigmoid", {X: 1}, {XT: 1}, "HardSwish"),
    Idiom("Clip", {X: 1, ONE: 3}, {XT: 1 / 6}, "HardSwish"),
    Idiom("Clip", {X: 1, ONE: 3}, {T: 1 / 6}, "HardSigmoid", 1 / 6, 0.5),
)
"""A Clip is one to [0, 6], a HardSigmoid one of x / 6 + 1 / 2."""


def run(graph: Graph) -> Graph:
    """Return the graph with `Activation` and `LayerNormalization` for what means them.

    Only float32 is looked at. A node that alone is an activation becomes an `Activation` too. A
    value that is an output of the graph, or that something else reads, is not swallowed.
    """
    view = View(graph)
    new: dict[str, Node] = {}
    for node in graph.nodes:
        for found in (_spelt_out(view, node), _layer_normalization(view, node)):
            if found is not None:
                new[found.name] = found
    for node in graph.nodes:
        if node.name not in new and (simple := _simple(view, node)):
            new[node.name] = _activation(node, node.inputs[0], *simple)
    nodes = tuple(new.get(node.name, node) for node in graph.nodes)
    return sweep(graph.with_(nodes=nodes, constants=view.constants))


def gelus(graph: Graph) -> Graph:
    """Return the graph with ONNX's own `Gelu` where it is spelt out."""
    view = View(graph)
    new: dict[str, Node] = {}
    for node in graph.nodes:
        found = _spelt_out(view, node)
        if found is not None and found.get("activation") in ("Gelu", "GeluTanh"):
            form = {"approximate": "tanh" if found.get("activation") == "GeluTanh" else "none"}
            new[found.name] = Node("Gelu", found.name, found.inputs, found.outputs, form)
    return sweep(graph.with_(nodes=tuple(new.get(node.name, node) for node in graph.nodes)))


class View:
    """A graph with its edges both ways, to ask about; constants can be added.

    Attributes:
        types: of all values.
        constants: those of the graph and those added.
        makers: node by the value that it makes.
        readers: nodes by the value that they read.
    """

    def __init__(self, graph: Graph) -> None:
        self.outputs = frozenset(graph.outputs)
        self.types = dict(graph.types)
        self.constants = dict(graph.constants)
        self.makers = graph.producers()
        self.readers = graph.consumers()

    def number(self, value: str) -> float | None:
        """Return a constant of one element."""
        array = self.constants.get(value)
        return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None

    def maker(self, value: str, *ops: str) -> Node | None:
        """Return the node that makes a value, if it is of one of some operators."""
        node = self.makers.get(value)
        return node if node is not None and node.op in ops else None

    def reader(self, value: str) -> Node | None:
        """Return the only node that reads a value, if the value is no output of the graph."""
        readers = self.readers.get(value, ())
        return readers[0] if len(readers) == 1 and value not in self.outputs else None

    def closed(self, nodes: Collection[Node], root: Node) -> bool:
        """Return whether nothing but these nodes, of which root is one, reads what they make.

        What root makes is not looked at.
        """
        names = {node.name for node in nodes} | {root.name}
        made = [value for node in nodes if node.name != root.name for value in node.outputs]
        return self.outputs.isdisjoint(made) and all(
            reader.name in names for value in made for reader in self.readers.get(value, ())
        )

    def constant(self, wish: str, array: np.ndarray) -> str:
        """Add a constant and return its name."""
        name = fresh(self.types, wish)
        self.constants[name] = array
        self.types[name] = Tensor(array.dtype, array.shape)
        return name


def is_float(view: View, node: Node) -> bool:
    """Return whether a node makes one float32 value of its first input's shape."""
    if len(node.outputs) != 1 or not node.inputs or not node.inputs[0]:
        return False
    made = view.types[node.outputs[0]]
    return made.dtype == np.float32 and view.types[node.inputs[0]] == made


def _activation(node: Node, x: str, name: str, alpha: float = 0.0, beta: float = 0.0) -> Node:
    attributes = {"activation": name, "alpha": float(alpha), "beta": float(beta)}
    return Node("Activation", node.name, (x,), (node.outputs[0],), attributes)


def _bounds(view: View, node: Node) -> tuple[float, float]:
    """Return the bounds of a Clip; NaN for one that is not known."""
    found = [-inf, inf]
    for i, name in enumerate(node.inputs[1:]):
        if name:
            number = view.number(name)
            found[i] = np.nan if number is None else number
    return found[0], found[1]


def _simple(view: View, node: Node) -> tuple[str, float, float] | None:
    """Return name and parameters of the activation that a node alone is."""
    if not is_float(view, node):
        return None
    name, alpha, beta = "", 0.0, 0.0
    match node.op:
        case "Relu" | "Sigmoid" | "Tanh" | "HardSwish" | "Softplus":
            name = node.op
        case "LeakyRelu":
            name, alpha = node.op, node.get("alpha", 0.01)
        case "Elu":
            name, alpha = node.op, node.get("alpha", 1.0)
        case "HardSigmoid":
            name, alpha, beta = node.op, node.get("alpha", 0.2), node.get("beta", 0.5)
        case "Gelu":
            name = "GeluTanh" if node.get("approximate", "none") == "tanh" else "Gelu"
        case "Swish" if node.get("alpha", 1.0) == 1:
            name = "Silu"
        case "PRelu" if (slope := view.number(node.inputs[1])) is not None:
            name, alpha = "LeakyRelu", slope
        case "Max" if len(node.inputs) == 2 and view.number(node.inputs[1]) == 0:
            name = "Relu"
        case "Clip" if _bounds(view, node) == (0, inf):
            name = "Relu"
        case "Clip":
            alpha, beta = _bounds(view, node)
            name = "Clip" if alpha <= beta else ""
    return (name, alpha, beta) if name else None


def _spelt_out(view: View, t: Node) -> Node | None:
    """Return the activation of which a node is the function, in the place of its last node."""
    idioms = [idiom for idiom in IDIOMS if idiom.function == t.op]
    if not idioms or not is_float(view, t):
        return None
    if t.op == "Clip" and _bounds(view, t) != (0, 6):
        return None
    if t.op == "HardSigmoid" and not (
        isclose(t.get("alpha", 0.2), 1 / 6, rel_tol=2e-5) and t.get("beta", 0.5) == 0.5
    ):
        return None
    found = None
    for x in _ancestors(view, t.inputs[0]):
        before = _Expression(view, {x: X})
        inner = before.read(t.inputs[0])
        fitting = [idiom for idiom in idioms if _same(inner, idiom.inner)]
        for root in _descendants(view, t.outputs[0]) if fitting else ():
            after = _Expression(view, {x: X, t.outputs[0]: T})
            outer = after.read(root.outputs[0])
            nodes = [t, *before.nodes.values(), *after.nodes.values()]
            for idiom in fitting:  # the last that fits: it swallows most
                same_type = view.types[x] == view.types[root.outputs[0]]
                if _same(outer, idiom.outer) and same_type and view.closed(nodes, root):
                    found = _activation(root, x, idiom.activation, idiom.alpha, idiom.beta)
    return found


_ARITHMETIC = ("Add", "Sub", "Mul", "Div", "Neg", "Pow")


def _ancestors(view: View, value: str, depth: int = _DEPTH) -> Iterator[str]:
    """Yield a value and what it is computed from by arithmetic."""
    yield value
    node = view.maker(value, *_ARITHMETIC)
    for name in dict.fromkeys(node.inputs) if node is not None and depth else ():
        if name not in view.constants:
            yield from _ancestors(view, name, depth - 1)


def _descendants(view: View, value: str) -> Iterator[Node]:
    """Yield the nodes after a value, as long as each is arithmetic and has one reader."""
    for _ in range(_DEPTH):
        node = view.reader(value)
        if node is None or node.op not in _ARITHMETIC:
            return
        yield node
        value = node.outputs[0]


class _Expression:
    """Reads values as polynomials in the values of `atoms`; `nodes` collects what it passed."""

    def __init__(self, view: View, atoms: dict[str, Powers]) -> None:
        self.view = view
        self.atoms = atoms
        self.nodes: dict[str, Node] = {}

    def read(self, value: str, depth: int = _DEPTH) -> Polynomial | None:
        if value in self.atoms:
            return {self.atoms[value]: 1.0}
        if (known := self.view.number(value)) is not None:
            return {ONE: known}
        node = self.view.maker(value, *_ARITHMETIC)
        if node is None or not depth:
            return None
        self.nodes[node.name] = node
        a, b = (self.read(name, depth - 1) for name in (node.inputs[0], node.inputs[-1]))
        if a is None or b is None:
            return None
        number = b.get(ONE) if len(b) == 1 else None
        found = None
        match node.op:
            case "Add":
                found = _sum(a, b)
            case "Sub":
                found = _sum(a, _times(b, {ONE: -1.0}))
            case "Mul":
                found = _times(a, b)
            case "Neg":
                found = _times(a, {ONE: -1.0})
            case "Div" if number:
                found = _times(a, {ONE: 1 / number})
            case "Pow" if number in {2, 3}:
                found = _times(a, _times(a, a) if number == 3 else a)
        return found


def _sum(a: Polynomial, b: Polynomial) -> Polynomial:
    return {powers: a.get(powers, 0.0) + b.get(powers, 0.0) for powers in {**a, **b}}


def _times(a: Polynomial, b: Polynomial) -> Polynomial:
    found: Polynomial = {}
    for (i, j), (k, m) in product(a, b):
        found[i + k, j + m] = found.get((i + k, j + m), 0.0) + a[i, j] * b[k, m]
    return found


def _same(a: Polynomial | None, b: Polynomial) -> bool:
    """Compare; constants with five digits are as good as all of them."""
    return a is not None and all(
        isclose(a.get(powers, 0.0), b.get(powers, 0.0), rel_tol=2e-5) for powers in {**a, **b}
    )


def _layer_normalization(view: View, node: Node) -> Node | None:
    """Return the layer normalization that a node's division by the deviation belongs to."""
    read = _normalized(view, node)
    if read is None:
        return None
    x, axis, epsilon, nodes = read
    shape = view.types[x].shape[axis:]
    root, scale, bias = node, np.ones(shape, np.float32), None
    for op in ("Mul", "Add"):
        after = view.reader(root.outputs[0])
        if after is not None and after.op == op and after.inputs[0] != after.inputs[1]:
            (other,) = (name for name in after.inputs if name != root.outputs[0])
            array = _over(view.constants.get(other), shape)
            if array is not None and view.types[after.outputs[0]] == view.types[x]:
                nodes.append(after)
                root = after
                scale, bias = (array, bias) if op == "Mul" else (scale, array)
    if not view.closed(nodes, root):
        return None
    inputs = [x, view.constant(f"{root.name}_scale", scale)]
    if bias is not None:
        inputs.append(view.constant(f"{root.name}_bias", bias))
    attributes = {"axis": axis - len(view.types[x].shape), "epsilon": epsilon}
    return Node("LayerNormalization", root.name, tuple(inputs), root.outputs, attributes)


def _over(array: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return a constant as one number for each position of the normalized axes, if it is that."""
    if array is None or any(n != 1 for n in array.shape[: max(array.ndim - len(shape), 0)]):
        return None
    own = array.shape[max(array.ndim - len(shape), 0) :]
    if any(n not in {1, m} for n, m in zip(own[::-1], shape[::-1], strict=False)):
        return None
    return np.broadcast_to(array.reshape(own), shape)


def _normalized(view: View, root: Node) -> tuple[str, int, float, list[Node]] | None:
    """Read (x - mean) / sqrt(variance + epsilon): x, its first normalized axis, epsilon, nodes."""
    for centred, divisor, dividing in _quotients(view, root):
        deviation = view.maker(divisor, "Sqrt")
        total = view.maker(deviation.inputs[0], "Add") if deviation is not None else None
        if deviation is None or total is None:
            continue
        for variance, name in (total.inputs, total.inputs[::-1]):
            epsilon, mean = view.number(name), view.maker(variance, "ReduceMean")
            if epsilon is None or mean is None or (s := _squared(view, mean.inputs[0])) is None:
                continue
            upper, lower = _centred(view, centred), _centred(view, s[0])
            if upper is None or lower is None or lower[:2] != upper[:2]:
                continue
            x, axis, nodes = upper
            whole = view.types[x] == view.types[root.outputs[0]]
            if whole and view.types[x].dtype == np.float32 and _trailing(view, mean) == axis:
                nodes = [root, *dividing, deviation, total, mean, s[1], *nodes, *lower[2]]
                return x, axis, epsilon, nodes
    return None


def _quotients(view: View, node: Node) -> Iterator[tuple[str, str, list[Node]]]:
    """Yield what may be dividend and divisor of a node, with further nodes that it takes."""
    if node.op == "Div":
        yield node.inputs[0], node.inputs[1], []
    for value, other in (node.inputs, node.inputs[::-1]) if node.op == "Mul" else ():
        if (reciprocal := view.maker(other, "Reciprocal")) is not None:
            yield value, reciprocal.inputs[0], [reciprocal]


def _squared(view: View, value: str) -> tuple[str, Node] | None:
    node = view.maker(value, "Mul", "Pow")
    if node is None:
        return None
    square = view.number(node.inputs[1]) == 2 if node.op == "Pow" else len({*node.inputs}) == 1
    return (node.inputs[0], node) if square else None


def _centred(view: View, value: str) -> tuple[str, int, list[Node]] | None:
    """Read x - mean(x): x, the first axis of the mean, nodes."""
    node = view.maker(value, "Sub")
    mean = view.maker(node.inputs[1], "ReduceMean") if node is not None else None
    if node is None or mean is None or mean.inputs[0] != node.inputs[0]:
        return None
    axis = _trailing(view, mean)
    return None if axis is None else (node.inputs[0], axis, [node, mean])


def _trailing(view: View, mean: Node) -> int | None:
    """Return the first axis of a mean over the last axes that keeps them."""
    rank = len(view.types[mean.inputs[0]].shape)
    axes = view.constants.get(mean.inputs[1]) if len(mean.inputs) > 1 else None
    if axes is None or not axes.size or not mean.get("keepdims", 1):
        return None
    found = sorted(int(axis) % rank for axis in axes)
    return found[0] if found == list(range(found[0], rank)) else None
