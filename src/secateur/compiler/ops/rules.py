"""Rules that operators share: which operands and dtypes they take, and which shape follows.

Each function takes the node only to name it in the error that it raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from secateur.compiler.graph import Node, Tensor, UndecidedError, unsupported
from secateur.compiler.ops import Arrays, Operand

Operands = tuple[Operand | None, ...]
Dtypes = frozenset[np.dtype[Any]]
Infer = Callable[[Node, Operands], tuple[Tensor, ...]]
Reference = Callable[[Node, Arrays], tuple[np.ndarray, ...]]


def dtypes(*names: str) -> Dtypes:
    """Return a set of dtypes by numpy's names."""
    return frozenset(np.dtype(name) for name in names)


BOOL = dtypes("bool")
FLOATS = dtypes("float16", "float32", "float64")
SIGNED = dtypes("int8", "int16", "int32", "int64")
UNSIGNED = dtypes("uint8", "uint16", "uint32", "uint64")
NUMBERS = FLOATS | SIGNED | UNSIGNED
ANY = NUMBERS | BOOL
INDICES = dtypes("int32", "int64")
WIDE = FLOATS | INDICES | dtypes("uint32", "uint64")
"""What arithmetic that adds up is defined on."""

LIMIT = 2**31 - 1
"""Elements of one value: generated code counts them in 32 bits."""


def arity(node: Node, operands: Operands, least: int, most: int | None = None) -> None:
    """Check how many operands there are; the first `least` of them must not be absent."""
    if len(operands) < least or any(operand is None for operand in operands[:least]):
        raise unsupported(node, f"it needs at least {least} inputs")
    if most is not None and len(operands) > most:
        raise unsupported(node, f"it has {len(operands)} inputs, and {most} are understood")


def operand(
    node: Node, operands: Operands, index: int, name: str, allowed: Dtypes = ANY
) -> Operand:
    """Return an operand that must be there and be of some dtype."""
    found = optional(node, operands, index, name, allowed)
    if found is None:
        raise unsupported(node, f"its input {name} is missing")
    return found


def optional(
    node: Node, operands: Operands, index: int, name: str, allowed: Dtypes = ANY
) -> Operand | None:
    """Return an operand or None where it is absent; where it is there, its dtype is checked."""
    found = operands[index] if index < len(operands) else None
    if found is not None and found.dtype not in allowed:
        names = ", ".join(sorted(str(dtype) for dtype in allowed))
        raise unsupported(node, f"its input {name} is {found.dtype}; it may be {names}")
    return found


def constant(node: Node, operand: Operand, name: str) -> np.ndarray:
    """Return the value of an operand that must be known when the network is compiled."""
    if operand.value is None:
        raise UndecidedError(
            node,
            f"its {name} is not constant: it",
            operand.name,
            f"export the model with a constant {name}",
        )
    return operand.value


def integers(node: Node, operand: Operand, name: str) -> tuple[int, ...]:
    """Return the known value of a one-dimensional operand of integers; a scalar counts as one."""
    if operand.dtype not in INDICES or len(operand.shape) > 1:
        raise unsupported(node, f"its {name} is not a list of int32 or int64")
    return tuple(int(value) for value in constant(node, operand, name).reshape(-1))


def scalar(node: Node, operand: Operand, name: str) -> np.generic:
    """Return the known value of an operand of one element."""
    value = constant(node, operand, name)
    if value.size != 1:
        raise unsupported(node, f"its {name} has {value.size} elements, not one")
    return value.reshape(-1)[0]  # type: ignore[no-any-return]


def axis(node: Node, value: int, rank: int) -> int:
    """Return an axis counted from the front; it must lie in [-rank, rank)."""
    if not -rank <= value < rank:
        raise unsupported(node, f"axis {value} of a value of {rank} axes")
    return value % rank


def axes(node: Node, values: Iterable[int], rank: int) -> tuple[int, ...]:
    """Return several axes counted from the front, in the order given; none may come twice."""
    found = tuple(axis(node, value, rank) for value in values)
    if len(set(found)) < len(found):
        raise unsupported(node, f"its axes {found} name one axis twice")
    return found


def same_dtype(node: Node, *operands: Operand | None) -> np.dtype[Any]:
    """Return the one dtype of all operands that are there."""
    found = {operand.dtype for operand in operands if operand is not None}
    if len(found) != 1:
        raise unsupported(node, f"its inputs mix {' and '.join(sorted(map(str, found)))}")
    return found.pop()


def broadcast(node: Node, *shapes: Sequence[int]) -> tuple[int, ...]:
    """Return the shape that several shapes broadcast to, by numpy's rule."""
    rank = max(len(shape) for shape in shapes)
    result = [1] * rank
    for shape in shapes:
        for place, extent in enumerate(shape, rank - len(shape)):
            if extent not in (1, result[place]) and result[place] != 1:
                raise unsupported(
                    node, "shapes " + " and ".join(map(str, map(tuple, shapes))) + " do not fit"
                )
            result[place] = extent if result[place] == 1 else result[place]
    return tuple(result)


def array(arrays: Arrays, index: int) -> np.ndarray:
    """Return an array that inference has seen to be there."""
    found = arrays[index]
    assert found is not None
    return found
