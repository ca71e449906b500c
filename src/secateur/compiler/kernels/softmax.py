"""Softmax and its logarithm along one axis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from secateur.compiler.graph import Node
from secateur.compiler.kernels import Carry, Kernel, Place, Step, Types
from secateur.compiler.kernels.elementwise import order
from secateur.compiler.kernels.folding import Folding


def _axis(node: Node, rank: int) -> int:
    return int(node.get("axis", -1)) % rank


def carry(node: Node, types: Types) -> list[Carry | None]:
    """Any axis but the one that is worked along."""
    rank = len(types[node.inputs[0]].shape)
    return [{a: a for a in range(rank) if a != _axis(node, rank)}]


def emit(node: Node, inputs: Sequence[Place | None], outputs: Sequence[Place], step: Step) -> str:
    """Find the largest, write exponentials, add them up, scale them."""
    x, y = inputs[0], outputs[0]
    assert x is not None
    rank = len(x.layout.shape)
    where = {a: a for a in range(rank)}
    single = x.dtype == np.float32
    exp, log = ("sec_exp", "sec_log") if single else ("exp", "log")
    f = Folding([(x, where), (y, where)], [_axis(node, rank)], step.machine.lanes)
    for form in f.forms():
        opened = f.open(form, weight=16)
        f.fold(form, "most", "highest")
        if node.op == "LogSoftmax":
            f.fold(form, "sum", "exponentials", shift="most")
            f.array(form, "log_sum", f"{log}(sum[l])")
            f.apply(form, 1, [0], ["most", "log_sum"], "(x0 - x1) - x2")
        else:
            f.apply(form, 1, [0], ["most"], f"{exp}(x0 - x1)", weight=16)
            f.fold(form, "sum", "sum", of=1)
            f.array(form, "scale", "1 / sum[l]")
            f.apply(form, 1, [1], ["scale"], "x0 * x1")
        f.close(opened)
    return f.text()


KERNELS = (Kernel(("Softmax", "LogSoftmax"), emit, carry=carry, order=order),)
