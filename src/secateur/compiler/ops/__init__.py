"""What operators mean: for each, the shape that it gives and a numpy reference.

Adding an operator is a file here (or a line in the file of its family): every module of this
package that has a tuple `OPERATORS` is found by itself, and a contract test tries what it claims.
How an operator is made fast is another matter, and lives in `kernels`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np

from secateur.compiler.graph import Node, Tensor, unsupported
from secateur.compiler.ops.refusals import reason

Arrays = tuple[np.ndarray | None, ...]


@dataclass(frozen=True)
class Operand:
    """One input of a node as shape inference sees it.

    Attributes:
        dtype: element type. shape: fixed shape.
        value: the array, where it is already known (constants, folded shape arithmetic).
        name: of the value, for errors.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    value: np.ndarray | None = None
    name: str = ""


@dataclass(frozen=True)
class Operator:
    """The meaning of one operator, in the form of the newest ONNX operator set.

    Attributes:
        name: as ONNX spells it.
        infer: (node, operands) -> types of the outputs. Operands are None where absent. It
            raises `unsupported(node, ...)` for an attribute value, a dtype or a dynamic operand
            that cannot be compiled, and for shapes that do not fit together.
        reference: (node, arrays) -> arrays, in plain numpy; the truth that kernels must match.
        attributes: names of the attributes that it understands; any other is refused.
    """

    name: str
    infer: Callable[[Node, tuple[Operand | None, ...]], tuple[Tensor, ...]]
    reference: Callable[[Node, Arrays], tuple[np.ndarray, ...]]
    attributes: frozenset[str] = frozenset()


@cache
def operators() -> Mapping[str, Operator]:
    """Return every operator that has a meaning here, by name."""
    found: dict[str, Operator] = {}
    for module in pkgutil.iter_modules(__path__):
        for operator in getattr(
            importlib.import_module(f"{__name__}.{module.name}"), "OPERATORS", ()
        ):
            if operator.name in found:
                raise AssertionError(f"operator {operator.name} is defined twice")
            found[operator.name] = operator
    return MappingProxyType(found)


def find(node: Node) -> Operator:
    """Return the operator of a node.

    Raises:
        CompileError: there is none, or the node carries an attribute that it does not understand.
    """
    operator = operators().get(node.op)
    if operator is None:
        raise unsupported(node, reason(node.op))
    if unknown := sorted(set(node.attributes) - operator.attributes):
        raise unsupported(node, f"attribute {', '.join(unknown)} is not supported")
    return operator
