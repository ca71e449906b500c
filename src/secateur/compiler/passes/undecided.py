"""Which inputs a value depends on, and so which of them to fix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from secateur.compiler.graph import Node, Tensor, UndecidedError, unsupported
from secateur.compiler.onnx_inputs import MOST_SETTING, value_option
from secateur.errors import CompileError


def told(
    error: UndecidedError, inputs: Sequence[str], nodes: Sequence[Node], types: Mapping[str, Tensor]
) -> CompileError:
    """Return the error with the inputs that decide, and how to fix them.

    Args:
        error: as it was raised, without them.
        inputs: of the graph.
        nodes: those that were taken in so far.
        types: of the inputs.
    """
    found = [name for name in inputs if name in _origins(error.value, nodes)]
    if not found:
        return error
    many = "s" if len(found) > 1 else ""
    said = f"{error.what} depends on input{many} {', '.join(map(repr, found))}"
    if not all(_is_setting(types[name]) for name in found):
        return unsupported(error.node, f"{said}; {error.advice}")
    which = "their values" if many else "its value"
    return unsupported(
        error.node, f"{said}; fix {which} with {value_option(found)}, or {error.advice}"
    )


def _origins(value: str, nodes: Sequence[Node]) -> set[str]:
    """Return all values that a value is computed from, and itself."""
    makers = {output: node for node in nodes for output in node.outputs if output}
    found, waiting = {value}, [value]
    while waiting:
        maker = makers.get(waiting.pop())
        new = {name for name in maker.inputs if name} - found if maker else set()
        found |= new
        waiting.extend(new)
    return found


def _is_setting(tensor: Tensor) -> bool:
    return tensor.size == 1 or (tensor.dtype.kind != "f" and tensor.size <= MOST_SETTING)
