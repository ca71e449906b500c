"""Convolutions that no pass could turn into a `FusedConv`: refused, with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import numpy as np

from secateur.compiler.graph import Node, unsupported
from secateur.compiler.kernels import Kernel, Machine, Place, Step, Types
from secateur.compiler.layout import Cut


def refuse(
    node: Node, types: Types, _cuts: Sequence[Cut], _machine: Machine, _batch: bool
) -> NoReturn:
    """Raise the error for a convolution that is left."""
    x = types[node.inputs[0]]
    if x.dtype != np.float32:
        raise unsupported(node, f"its element type is {x.dtype}, not float32")
    raise unsupported(node, "its weights or biases are not constant")


def emit(
    _node: Node, _inputs: Sequence[Place | None], _outputs: Sequence[Place], _step: Step
) -> str:
    """Nothing comes here: `refuse` is asked first."""
    raise AssertionError


KERNELS = (Kernel(ops=("Conv",), emit=emit, cuts=refuse),)
