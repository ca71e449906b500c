"""Runs single operators through the real planner, emitter and compiler, many in one engine.

Each operator gets inputs of its own; an engine has a program for one sample and one with a sample
in each lane, and both are compared with the numpy reference of the operator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from secateur.compiler import interpreter, pipeline, rewrites, toolchain
from secateur.compiler.graph import Graph, Node, Tensor
from secateur.compiler.kernels import Machine
from secateur.compiler.network import Network
from secateur.compiler.passes import fold, shapes
from secateur.compiler.plan import plan
from secateur.compiler.runtime import Engine

EXTRA = 3
"""Samples beyond a whole tile."""


@dataclass(frozen=True)
class Known:
    """An input that is a constant.

    Attributes:
        of: the array, or a function of the number of samples that gives it.
    """

    of: np.ndarray | Callable[[int], np.ndarray]

    def array(self, batch: int) -> np.ndarray:
        return self.of(batch) if callable(self.of) else np.asarray(self.of)


@dataclass(frozen=True, repr=False)
class Case:
    """One operator and its inputs.

    Attributes:
        inputs: an array of samples [samples, ...], a Known, or None where absent.
        via: what makes its first input: "" is the caller, "tokens" a linear layer and "plane" a
            convolution that change nothing; these cut a single sample over the lanes.
        outputs: which outputs are asked for.
    """

    op: str
    inputs: Sequence[np.ndarray | Known | None]
    attributes: dict[str, Any] = field(default_factory=dict)
    via: str = ""
    outputs: tuple[bool, ...] = (True,)
    tolerance: float = 1e-5

    def __repr__(self) -> str:
        shapes = [
            None if x is None else "constant" if isinstance(x, Known) else f"{x.dtype}{x.shape[1:]}"
            for x in self.inputs
        ]
        return f"Case({self.op}, {shapes}, {self.attributes}, via={self.via!r}, {self.outputs})"


def integers(*values: int) -> Known:
    """Return a constant of int64."""
    return Known(np.array(values, np.int64))


def samples_of(machine: Machine, tiles: int = 1) -> int:
    """Return how many samples a test needs to fill tiles and have some over."""
    return machine.lanes * tiles + EXTRA


def machine() -> Machine:
    """Return the vectors of this machine."""
    target = toolchain.native()
    return Machine(target.lanes, target.registers)


def graph_of(cases: Sequence[Case], batch: int) -> Graph:
    """Return the graph of all cases for some number of samples."""
    nodes, inputs, constants, outputs = [], [], {}, []
    types: dict[str, Tensor] = {}
    for k, case in enumerate(cases):
        names = []
        for i, given in enumerate(case.inputs):
            name = "" if given is None else f"x{k}_{i}"
            if isinstance(given, Known):
                constants[name] = given.array(batch)
            elif given is not None:
                inputs.append(name)
                types[name] = Tensor(given.dtype, (batch, *given.shape[1:]))
            names.append(name)
        if case.via:
            before, more = _through(case.via, f"b{k}", names[0], types[names[0]].shape)
            nodes.append(before)
            constants |= more
            names[0] = before.outputs[0]
        made = tuple(f"y{k}_{i}" if wanted else "" for i, wanted in enumerate(case.outputs))
        outputs += filter(None, made)
        nodes.append(Node(case.op, f"n{k}", tuple(names), made, case.attributes))
    graph = Graph(tuple(nodes), tuple(inputs), tuple(outputs), constants, types)
    rewritten = any(node.op in rewrites.rules() for node in nodes)
    return fold.run(graph) if rewritten else shapes.run(graph)


def _through(
    via: str, name: str, value: str, shape: tuple[int, ...]
) -> tuple[Node, dict[str, np.ndarray]]:
    plain = {"activation": "", "alpha": 0.0, "beta": 0.0}
    if via == "tokens":
        weight = np.eye(shape[-1], dtype=np.float32)
        node = Node("FusedLinear", name, (value, f"{name}_w", "", ""), (f"{name}_y",), plain)
    else:
        rank = len(shape) - 2
        weight = np.eye(shape[1], dtype=np.float32).reshape(shape[1], shape[1], *(1,) * rank)
        window = {"pads": (0,) * 2 * rank, "strides": (1,) * rank, "dilations": (1,) * rank}
        node = Node(
            "FusedConv", name, (value, f"{name}_w", "", ""), (f"{name}_y",),
            {**plain, **window, "group": 1},
        )  # fmt: skip
    return node, {f"{name}_w": weight}


@dataclass(frozen=True)
class Built:
    """Cases, compiled."""

    cases: Sequence[Case]
    network: Network
    content: bytes
    engine: Engine

    def load(self, threads: int) -> Engine:
        """Load the engine once more."""
        return Engine(self.content, threads)

    def guarded(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run the engine on memory of ours, and see that nothing behind its outputs is touched."""
        native, given, outputs, batch = self.engine._prepare(arrays)
        behind = 4 * machine().lanes
        room = [np.full((batch + behind, *x.shape[1:]), 77).astype(x.dtype) for x in outputs]
        made = [x[:batch] for x in room]
        native.run(*self.engine._addresses(given, made), batch)
        for name, x in zip(self.network.reference.outputs, room, strict=True):
            assert (x[batch:] == np.array(77).astype(x.dtype)).all(), f"behind {name} of {batch}"
        return made

    def check(self, batches: Sequence[int]) -> None:
        """Compare the engine with the references, for several numbers of samples."""
        given = [
            array for case in self.cases for array in case.inputs if isinstance(array, np.ndarray)
        ]
        wanted = []
        for sample in range(max(batches)):
            arrays = [array[sample : sample + 1] for array in given]
            graph = self.network.reference
            made = interpreter.run(graph, dict(zip(graph.inputs, arrays, strict=True)))
            wanted.append([made[name] for name in graph.outputs])
        names = self.network.reference.outputs
        for batch in batches:
            got = self.guarded([array[:batch] for array in given])
            for name, mine, *its in zip(names, got, *wanted[:batch], strict=True):
                _compare(self._case(name), np.concatenate(its), mine, f"{name} of {batch}")

    def _case(self, output: str) -> Case:
        return self.cases[int(output[1:].split("_", maxsplit=1)[0])]


def _compare(case: Case, wanted: np.ndarray, got: np.ndarray, where: str) -> None:
    what = f"{case}: {where}"
    assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape), what
    if wanted.dtype.kind == "f":
        finite = np.abs(wanted[np.isfinite(wanted)])
        scale = max(1e-30, float(finite.max(initial=0)))
        with np.errstate(over="ignore", invalid="ignore"):
            np.testing.assert_allclose(
                got, wanted, rtol=case.tolerance, atol=case.tolerance * scale, err_msg=what
            )
    else:
        np.testing.assert_array_equal(got, wanted, err_msg=what)


def build(cases: Sequence[Case], *, tiles: int = 1, threads: int = 2) -> Built:
    """Compile cases into one engine.

    Args:
        cases: their inputs hold as many samples as will be asked for.
        tiles: samples that share a lane.
        threads: of the engine.
    """
    this = machine()
    many = this.lanes * tiles
    graphs = (graph_of(cases, 1), graph_of(cases, many))
    programs = (
        plan(graphs[0], this, batch=1, lanes=False, batched=True),
        plan(graphs[1], this, batch=many, lanes=True, batched=True),
    )
    layers = {n.name: False for n in graphs[0].nodes if n.op.startswith("Fused")}
    network = Network(graphs[0], graphs, programs, True, layers, this)
    content = pipeline.built(pipeline.source_of(network, "cases"), toolchain.native())
    return Built(cases, network, content, Engine(content, threads))


def check(cases: Sequence[Case], *, tiles: int = 1) -> None:
    """Compile cases and compare them with their references: alone, in tiles, in one not full."""
    most = samples_of(machine(), tiles)
    tile = most - EXTRA
    built = build(cases, tiles=tiles)
    with built.engine:
        built.check((1, 2, tile - 1, tile, most))
