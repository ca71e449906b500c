"""Products of levels become layers of numbers, where a scale follows that is known at run time.

Dynamically quantised files multiply levels, MatMulInteger(q, w), and then multiply the sums by the
scale of the data and that of the weights. That is the product of the numbers that they stand for,
DequantizeBy(q) and w as float32, which other passes know what to do with. What comes in any other
form is computed by the rules of `rewrites.quantised`.
"""

from __future__ import annotations

import numpy as np

from secateur.compiler.graph import Graph, Node
from secateur.compiler.ops.cast import ELEMENT_TYPES
from secateur.compiler.passes import fold
from secateur.compiler.passes.building import Building
from secateur.compiler.passes.fuse import per_channel
from secateur.compiler.rewrites.quantised import PRODUCTS

F32 = np.dtype(np.float32)

SINGLE = ((), (1,))
"""Shapes of a scale or a zero point of a whole value."""

LAYERS = {"ConvInteger": ("Conv", 1), "MatMulInteger": ("MatMul", -1)}
"""What becomes of a product, and along which axis of its output the channels lie."""


def run(graph: Graph) -> Graph:
    """Return the graph without products of integers; its values all have types.

    Raises:
        CompileError: a product is none of a layer, and cannot be computed in float32.
    """
    if not any(node.op in LAYERS for node in graph.nodes):
        return graph
    walk = _Walk(graph)
    for node in graph.nodes:
        walk.visit(node)
    made = walk.made()
    return fold.run(made, PRODUCTS) if any(n.op in LAYERS for n in made.nodes) else made


class _Walk(Building):
    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.makers = graph.producers()
        self.numbers: dict[tuple[str, str, str], str] = {}  # (levels, scale, zero) -> numbers

    def visit(self, node: Node) -> None:
        """Add a node, or the layer that it scales the sums of."""
        if node.op == "Mul":
            for value, scale in (node.inputs, node.inputs[::-1]):
                product = self._product(value)
                if product is not None and self._layer(node, product, scale):
                    return
        self.nodes.append(node)

    def _product(self, value: str) -> Node | None:
        """Return the product whose sums, as float32, a value is."""
        cast = self.makers.get(value)
        if cast is None or cast.op != "Cast" or ELEMENT_TYPES[cast.get("to")] != F32:
            return None
        product = self.makers.get(cast.inputs[0])
        return product if product is not None and product.op in LAYERS else None

    def _layer(self, node: Node, product: Node, scale: str) -> bool:
        data, weight, zero, aside = (*product.inputs, "", "")[:4]
        if weight not in self.constants:
            return self._computed(node, product, scale)
        moving, known = self._scale(scale)
        op, axis = LAYERS[product.op]
        shape = self.types[product.outputs[0]].shape
        steps = per_channel(known, shape, axis % len(shape))
        if (
            not moving
            or steps is None
            or (aside and aside not in self.constants)
            or self.types[node.outputs[0]].shape != shape
            or not self._single(zero)
        ):
            return False
        numbers = self.constants[weight].astype(F32)
        ones = (1,) * (numbers.ndim - 1) if op == "Conv" else ()
        if aside:
            its = self.constants[aside].astype(F32)
            numbers = numbers - (its.reshape(-1, *ones) if its.ndim == 1 else its)
        numbers = numbers * steps.reshape(-1, *ones)
        attributes = product.attributes if op == "Conv" else {}
        inputs = self._number(data, moving, zero), self.constant(f"{weight} numbers", numbers)
        self.put(Node(op, node.name, inputs, node.outputs, attributes))
        return True

    def _computed(self, node: Node, product: Node, scale: str) -> bool:
        """The product of two computed values, as attention has it."""
        data, other, *zeros = (*product.inputs, "", "")[:4]
        maker = self.makers.get(scale)
        if product.op != "MatMulInteger" or maker is None or maker.op != "Mul":
            return False
        scales = maker.inputs  # whose is whose makes no difference to the product
        floats = all(self.types[v].dtype == F32 and v not in self.constants for v in scales)
        if not floats or not all(map(self._single, (*scales, *zeros))):
            return False
        pairs = zip((data, other), scales, zeros, strict=True)
        self.put(Node("MatMul", node.name, tuple(self._number(*p) for p in pairs), node.outputs))
        return True

    def _single(self, value: str) -> bool:
        return not value or self.types[value].shape in SINGLE

    def _scale(self, value: str) -> tuple[str, np.ndarray]:
        """Return the scale of the data, a value, and that of the weights; ("", any) if none is."""
        known, moving = np.ones((), F32), value
        maker = self.makers.get(value)
        if maker is not None and maker.op == "Mul":
            for one, other in (maker.inputs, maker.inputs[::-1]):
                if other in self.constants:
                    moving, known = one, self.constants[other]
        tensor = self.types[moving]
        fits = moving not in self.constants and tensor.dtype == F32 and tensor.shape in SINGLE
        return moving if fits else "", known

    def _number(self, data: str, scale: str, zero: str) -> str:
        zero = zero or self.constant(f"{data} zero", np.zeros((), self.types[data].dtype))
        if (data, scale, zero) not in self.numbers:
            made = self.value(f"{data} numbers")
            self.put(Node("DequantizeBy", self.name(made), (data, scale, zero), (made,)))
            self.numbers[data, scale, zero] = made
        return self.numbers[data, scale, zero]
