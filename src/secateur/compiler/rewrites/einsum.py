"""Einstein's sums, as transposes, products and sums: two operands at a time, from the left."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from secateur.compiler.graph import Node, unsupported
from secateur.compiler.ops import rules
from secateur.compiler.rewrites import Builder

Labels = tuple[str, ...]


@dataclass(frozen=True)
class _Term:
    """A value and what its axes are called, each once."""

    value: str
    labels: Labels


def _parsed(node: Node, ranks: list[int]) -> tuple[list[Labels], Labels]:
    """Return the labels of every operand's axes, and of the output's.

    Axes under an ellipsis are called "...0", "...1" and so on, counted from the last.
    """
    equation = node.get("equation", "").replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise unsupported(node, f"equation {equation!r} for {len(ranks)} inputs")
    found = [_spelt(node, term, rank) for term, rank in zip(terms, ranks, strict=True)]
    every = [label for labels in found for label in labels]
    hidden = sorted({label for label in every if len(label) > 1}, key=lambda x: -int(x[3:]))
    if arrow:
        before, dots, after = right.partition("...")
        wanted = (*before, *(hidden if dots else ()), *after)
    else:  # what comes once, in the order of the alphabet
        wanted = (*hidden, *sorted(x for x in {*every} - {*hidden} if every.count(x) == 1))
    if len({*wanted}) < len(wanted) or not {*wanted} <= {*every}:
        raise unsupported(node, f"equation {equation!r}: its output's axes are not its inputs'")
    return found, wanted


def _spelt(node: Node, term: str, rank: int) -> Labels:
    before, dots, after = term.partition("...")
    hidden = rank - len(before) - len(after)
    letters = before + after
    if hidden < 0 or (hidden and not dots) or (letters and not letters.isalpha()):
        raise unsupported(node, f"equation {node.get('equation')!r}: {term!r} has {rank} axes")
    return (*before, *(f"...{k}" for k in range(hidden)[::-1]), *after)


def _einsum(node: Node, build: Builder) -> tuple[str, ...]:
    operands = build.operands()
    rules.arity(node, operands, max(len(operands), 1))
    found = [
        rules.operand(node, operands, k, f"Inputs[{k}]", rules.NUMBERS)
        for k in range(len(operands))
    ]
    rules.same_dtype(node, *found)
    spelt, wanted = _parsed(node, [len(operand.shape) for operand in found])
    extents: dict[str, int] = {}
    for labels, operand in zip(spelt, found, strict=True):
        for label, extent in zip(labels, operand.shape, strict=True):
            if extents.setdefault(label, extent) == 1:
                extents[label] = extent
            elif extent not in (1, extents[label]):
                raise unsupported(node, f"axis {label!r} has extents {extents[label]} and {extent}")
    terms = [
        _own(build, value, labels, extents)
        for value, labels in zip(node.inputs, spelt, strict=True)
    ]
    while len(terms) > 1:
        first, second, *rest = terms
        kept = {*wanted, *(label for term in rest for label in term.labels)}
        terms = [_product(build, first, second, kept), *rest]
    (term,) = terms
    term = _summed(build, term, {*wanted})
    return (_in_order(build, term, wanted),)


def _own(build: Builder, value: str, labels: Labels, extents: dict[str, int]) -> _Term:
    """Return an operand in which every label comes once, and none that it only broadcasts along."""
    for label in dict.fromkeys(labels):
        while labels.count(label) > 1:
            value, labels = _diagonal(build, value, labels, label)
    shape = build.shape(value)
    kept = [k for k, label in enumerate(labels) if shape[k] == extents[label]]
    if len(kept) < len(labels):
        value = build.reshape(value, tuple(shape[k] for k in kept))
    return _Term(value, tuple(labels[k] for k in kept))


def _diagonal(build: Builder, value: str, labels: Labels, label: str) -> tuple[str, Labels]:
    """Return the diagonal of two axes of the same label: the sum of what is not off it."""
    first = labels.index(label)
    second = labels.index(label, first + 1)
    shape = build.shape(value)
    if shape[first] != shape[second]:
        raise unsupported(build.node, f"axis {label!r} has extents {shape[first]}, {shape[second]}")
    places = [build.places(shape[axis], len(shape) - 1 - axis) for axis in (first, second)]
    zero = build.constant(0, build.dtype(value))
    on = build.add("Equal", *places)
    alone = build.add("Where", on, value, zero)
    axes = build.constant([first], np.int64)
    return build.add("ReduceSum", alone, axes, keepdims=0), labels[:first] + labels[first + 1 :]


def _summed(build: Builder, term: _Term, kept: set[str]) -> _Term:
    """Return a value summed over all axes that are not kept."""
    gone = [axis for axis, label in enumerate(term.labels) if label not in kept]
    if not gone:
        return term
    value = build.add("ReduceSum", term.value, build.constant(gone, np.int64), keepdims=0)
    return _Term(value, tuple(label for label in term.labels if label in kept))


def _in_order(build: Builder, term: _Term, labels: Labels) -> str:
    """Return a value with its axes in an order."""
    if term.labels == labels:
        return term.value
    return build.add("Transpose", term.value, perm=tuple(map(term.labels.index, labels)))


def _product(build: Builder, a: _Term, b: _Term, kept: set[str]) -> _Term:
    """Return the product of two values, summed over the axes that nothing needs any more."""
    a = _summed(build, a, kept | {*b.labels})
    b = _summed(build, b, kept | {*a.labels})
    folded = tuple(x for x in a.labels if x in b.labels and x not in kept)
    if not folded:
        return _multiplied(build, a, b)
    if build.types[a.value].value is not None:  # weights are best on the right
        a, b = b, a
    batch = tuple(x for x in a.labels if x in b.labels and x in kept)
    rows = tuple(x for x in a.labels if x not in b.labels)
    columns = tuple(x for x in b.labels if x not in a.labels)
    extents = dict(zip(a.labels, build.shape(a.value), strict=True))
    extents |= dict(zip(b.labels, build.shape(b.value), strict=True))

    def sizes(*groups: Labels) -> list[int]:
        return [extents[x] for group in groups for x in group]

    depth, width = prod(sizes(folded)), prod(sizes(columns))
    # without a batch on the right, all rows may be axes of their own
    left = sizes(batch, rows) if not batch else [*sizes(batch), prod(sizes(rows))]
    if not left:
        left = [1]
    x = build.reshape(_in_order(build, a, (*batch, *rows, *folded)), (*left, depth))
    y = build.reshape(
        _in_order(build, b, (*batch, *folded, *columns)), (*sizes(batch), depth, width)
    )
    made = (*batch, *rows, *columns)
    return _Term(build.reshape(build.add("MatMul", x, y), tuple(sizes(made))), made)


def _multiplied(build: Builder, a: _Term, b: _Term) -> _Term:
    """Return the product of two values element by element, with broadcasting."""
    made = (*a.labels, *(x for x in b.labels if x not in a.labels))
    values = []
    for term in (a, b):
        value = _in_order(build, term, tuple(x for x in made if x in term.labels))
        missing = [axis for axis, label in enumerate(made) if label not in term.labels]
        if missing:
            value = build.add("Unsqueeze", value, build.constant(missing, np.int64))
        values.append(value)
    return _Term(build.add("Mul", *values), made)


REWRITES = {"Einsum": _einsum}
