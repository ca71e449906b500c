"""Compiled code, held against the ONNX project's own tests of every operator that is claimed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np
import pytest

import kernel_harness
import onnx_backend
from onnx_backend import Case
from secateur.compiler import coverage, onnx_reader, passes, pipeline, toolchain
from secateur.compiler.graph import Graph
from secateur.compiler.kernels import C_TYPES
from secateur.compiler.network import Network
from secateur.compiler.plan import plan
from secateur.compiler.runtime import Engine
from secateur.errors import CompileError

LAYERS = (
    *("Conv", "ConvTranspose", "Gemm", "GRU", "LSTM", "RNN", "BatchNormalization"),
    *("ConvInteger", "QLinearConv"),
    "CausalConvWithState",
)
"""Their weights must be known when a network is compiled: all inputs but the first are fixed."""

MOST = 60
"""Cases that are compiled together."""

SKIPPED: dict[str, str] = {}
"""Cases that the numpy reference passes and that are not compiled: pattern of names -> reason."""


def reason(case: Case) -> str | None:
    """Return why a case is not compiled."""
    for pattern, why in SKIPPED.items():
        if fnmatchcase(case.name, pattern):
            return why
    kinds = {a.dtype.name for a in (*case.inputs.values(), *case.outputs.values())}
    if strange := sorted(kinds - set(C_TYPES)):
        return f"element type {', '.join(strange)} is not computed with"
    return None


def graph_of(case: Case) -> tuple[Graph, dict[str, np.ndarray]]:
    """Return a case's graph after all passes, and its inputs that are left."""
    fixed = dict(case.fixed)
    free = dict(case.inputs)
    if case.operator in LAYERS:
        for name in list(free)[1:]:
            fixed[name] = free.pop(name)
    return passes.apply(onnx_reader.read(case.model.SerializeToString(), fixed=fixed).graph), free


def joined(graphs: Iterable[Graph]) -> Graph:
    """Return graphs side by side in one, every name with the graph's number before it."""
    parts = []
    for k, graph in enumerate(graphs):

        def new(name: str, k: int = k) -> str:
            return f"{k} {name}" if name else ""

        parts.append(
            Graph(
                tuple(
                    replace(
                        n,
                        name=new(n.name),
                        inputs=tuple(map(new, n.inputs)),
                        outputs=tuple(map(new, n.outputs)),
                    )
                    for n in graph.nodes
                ),
                tuple(map(new, graph.inputs)),
                tuple(map(new, graph.outputs)),
                {new(n): a for n, a in graph.constants.items()},
                {new(n): t for n, t in graph.types.items()},
            )
        )
    return Graph(
        tuple(n for g in parts for n in g.nodes),
        tuple(n for g in parts for n in g.inputs),
        tuple(n for g in parts for n in g.outputs),
        {n: a for g in parts for n, a in g.constants.items()},
        {n: t for g in parts for n, t in g.types.items()},
    )


def failures(cases: list[Case]) -> str:
    """Compile cases into one engine and run them; return a line for each that failed."""
    found, graphs, kept, given = [], [], [], {}
    machine = kernel_harness.machine()
    for case in cases:
        try:
            graph, free = graph_of(case)
            plan(graph, machine, batch=1, lanes=False, batched=False)
        except CompileError as error:
            found.append(f"{case.name}: {error}")
            continue
        given |= {f"{len(graphs)} {n}": a for n, a in free.items() if n in graph.inputs}
        graphs.append(graph)
        kept.append(case)
    graph = joined(graphs)
    program = plan(graph, machine, batch=1, lanes=False, batched=False)
    network = Network(graph, (graph,), (program,), False, {}, machine)
    content = pipeline.built(pipeline.source_of(network, "cases"), toolchain.native())
    with Engine(content, 2) as engine:
        made = engine(given)
    made = made if isinstance(made, tuple) else (made,)
    outputs = dict(zip(graph.outputs, made, strict=True))
    for k, case in enumerate(kept):
        try:
            case.check({name: outputs[f"{k} {name}"] for name in case.outputs})
        except AssertionError as error:
            found.append(f"{case.name}: {' '.join(str(error).split())[:300]}")
    return "\n".join(found)


@pytest.mark.parametrize(
    "expanded", [False, pytest.param(True, marks=pytest.mark.long)], ids=["itself", "expanded"]
)
@pytest.mark.parametrize("operator", sorted(coverage.compiled()))
def test_compiled_operator_passes_its_cases(operator: str, expanded: bool) -> None:
    """Its own cases, and those in which ONNX writes it in others, which have theirs."""
    known = [c for c in onnx_backend.cases(operator) if ("_expanded" in c.name) == expanded]
    cases = [c for c in known if reason(c) is None]
    if not known:
        pytest.skip(f"ONNX has no such node test of {operator}")
    found = [failures(cases[k : k + MOST]) for k in range(0, len(cases), MOST)]
    assert "\n".join(filter(None, found)) == ""


def test_every_skip_is_needed() -> None:
    names = [case.name for case in onnx_backend.cases()]
    assert not [p for p in SKIPPED if not any(fnmatchcase(n, p) for n in names)]
