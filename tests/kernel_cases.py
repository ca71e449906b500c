"""Operands for kernels, and how many cases are drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from kernel_harness import Case, Known, machine, samples_of
from secateur.compiler import rewrites
from secateur.compiler.graph import Node
from secateur.compiler.ops import Operand, find
from secateur.errors import CompileError

# Many operators share an engine, and what Hypothesis would shrink is compiled each time.
drawn = settings(
    max_examples=2,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=list(HealthCheck),
)


extents = st.integers(1, 9)
RNG = np.random.default_rng(7)


def values(dtype: str, *shape: int, low: float = -9, high: float = 9) -> np.ndarray:
    """Return samples [samples, *shape]: small numbers, and extremes of integers among them."""
    kind, all_ = np.dtype(dtype), (samples_of(machine()), *shape)
    if kind.kind == "f":
        return RNG.uniform(low, high, all_).astype(kind)
    if kind.kind == "b":
        return RNG.random(all_) < 0.5
    least, most = np.iinfo(kind).min, np.iinfo(kind).max
    x = RNG.integers(max(least, int(low)), int(high) + 1, all_).astype(kind)
    extreme = RNG.random(all_) < 0.1
    if low < -5:
        x[extreme] = RNG.choice(np.array([least, most], kind), int(extreme.sum()))
    return x


def normal(*shape: int) -> np.ndarray:
    """Return samples of float32."""
    return RNG.standard_normal((samples_of(machine()), *shape)).astype(np.float32)


def weights(*shape: int, dtype: str = "float32") -> Known:
    """Return a constant."""
    return Known(RNG.uniform(0.5, 2, shape).astype(dtype))


def possible(cases: Sequence[Case]) -> list[Case]:
    """Return those cases whose operator takes their dtypes."""
    return [case for case in cases if _inferred(case)]


def _inferred(case: Case) -> bool:
    if case.op in rewrites.rules():
        return True
    operands = []
    for x in case.inputs:
        array = x.array(1) if isinstance(x, Known) else x
        known = array if isinstance(x, Known) else None
        operands.append(None if array is None else Operand(array.dtype, array.shape, known))
    names = tuple("" if x is None else f"x{k}" for k, x in enumerate(case.inputs))
    node = Node(case.op, "n", names, ("y",), case.attributes)
    try:
        find(node).infer(node, tuple(operands))
    except CompileError:
        return False
    return True
