"""Small networks made by hand, planned and compiled as they are, and compared with the references.

Where `kernel_harness` runs single operators, these have several that hand values to one another,
cut over the lanes in whatever way their makers left them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st

import kernel_harness
from secateur.compiler import interpreter, ops, pipeline, toolchain
from secateur.compiler.graph import Graph, Node, Tensor
from secateur.compiler.kernels import Machine
from secateur.compiler.network import Network
from secateur.compiler.ops import Operand
from secateur.compiler.plan import plan
from secateur.compiler.runtime import Engine
from secateur.errors import CompileError

F32 = np.dtype(np.float32)
NONE = {"activation": "", "alpha": 0.0, "beta": 0.0}
Build = Callable[["Net"], None]

FEW = settings(max_examples=3, phases=[Phase.generate])
"""Every example is compiled: few of them, of many operators each, and none to shrink a failure."""

MACHINES = st.sampled_from([None, Machine(8, 16), Machine(4, 32)])


class Net:
    """A graph that grows, for some number of samples; the same weights whatever that is."""

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.rng = np.random.default_rng(0)
        self.nodes: list[Node] = []
        self.inputs: list[str] = []
        self.outputs: list[str] = []
        self.constants: dict[str, np.ndarray] = {}
        self.types: dict[str, Tensor] = {}

    def name(self) -> str:
        return f"v{len(self.types)}"

    def typed(self, tensor: Tensor) -> str:
        name = self.name()
        self.types[name] = tensor
        return name

    def input(self, *shape: int, dtype: Any = F32, fixed: bool = False) -> str:
        shape = shape if fixed else (self.samples, *shape)
        self.inputs.append(self.typed(Tensor(np.dtype(dtype), shape)))
        return self.inputs[-1]

    def constant(self, array: np.ndarray) -> str:
        name = self.typed(Tensor(array.dtype, array.shape))
        self.constants[name] = array
        return name

    def normal(self, *shape: int, dtype: Any = F32, scale: float = 1) -> str:
        return self.constant((scale * self.rng.standard_normal(shape)).astype(dtype))

    def add(
        self, op: str, *inputs: str, wanted: Sequence[bool] = (True,), **attributes: Any
    ) -> Any:
        node = Node(op, f"n{len(self.nodes)}", inputs, ("",) * len(wanted), attributes)
        operands = tuple(
            Operand(self.types[v].dtype, self.types[v].shape, self.constants.get(v)) if v else None
            for v in inputs
        )
        made = ops.find(node).infer(node, operands)
        names = tuple(self.typed(t) if keep else "" for t, keep in zip(made, wanted, strict=False))
        self.nodes.append(Node(op, node.name, inputs, names, attributes))
        return names[0] if len(names) == 1 else names

    def plane(self, *shape: int) -> str:
        """An input [channels, ...] whose plane is cut over the lanes of a single sample."""
        rank = len(shape) - 1
        w = np.eye(shape[0], dtype=F32).reshape(shape[0], shape[0], *(1,) * rank)
        return str(self.add(
            "FusedConv", self.input(*shape), self.constant(w), "", "", pads=(0,) * 2 * rank,
            strides=(1,) * rank, dilations=(1,) * rank, group=1, **NONE,
        ))  # fmt: skip

    def linear(self, x: str, outputs: int) -> str:
        """A linear layer, which cuts the tokens of a single sample over the lanes."""
        w = self.normal(outputs, self.types[x].shape[-1])
        return str(self.add("FusedLinear", x, w, "", "", **NONE))

    def reshape(self, x: str, *shape: int) -> str:
        return str(self.add("Reshape", x, self.constant(np.array(shape))))

    def keep(self, *values: str) -> None:
        self.outputs += filter(None, values)

    def graph(self) -> Graph:
        return Graph(
            tuple(self.nodes), tuple(self.inputs), tuple(self.outputs), self.constants, self.types
        )


def programs(
    build: Build, machine: Machine, tiles: int | None
) -> tuple[Network, dict[str, np.ndarray]]:
    """Plan a network and draw its inputs: of many samples, or of no batch where tiles is None."""
    batches = [1] if tiles is None else [1, machine.lanes * tiles]
    nets = [Net(batch) for batch in batches]
    for net in nets:
        build(net)
    graphs = tuple(net.graph() for net in nets)
    planned = tuple(
        plan(graph, machine, batch=batch, lanes=batch > 1, batched=tiles is not None)
        for graph, batch in zip(graphs, batches, strict=True)
    )
    rng = np.random.default_rng(1)
    arrays = {}
    for name in graphs[-1].inputs:
        tensor = graphs[-1].types[name]
        drawn = rng.standard_normal(tensor.shape) * (1 if tensor.dtype.kind == "f" else 50)
        arrays[name] = drawn.astype(np.int64).astype(tensor.dtype)
        if tensor.dtype.kind == "f":
            arrays[name] = drawn.astype(tensor.dtype)
    dense = {node.name: False for node in graphs[0].nodes}
    network = Network(graphs[0], graphs, planned, tiles is not None, dense, machine)
    return network, arrays


def check(
    build: Build, machine: Machine | None = None, tiles: int | None = 1, tolerance: float = 2e-5
) -> None:
    """Compile a network, run it with one thread and with three, alone and in tiles, and compare."""
    network, arrays = programs(build, machine or kernel_harness.machine(), tiles)
    content = pipeline.built(pipeline.source_of(network, "tested"), toolchain.native())
    with Engine(content, 1) as alone, Engine(content, 3) as team:
        for graph in network.graphs:
            given_arrays = arrays
            if network.batched:
                count = graph.types[graph.inputs[0]].shape[0]
                given_arrays = {name: array[:count] for name, array in arrays.items()}
            wanted = interpreter.run(graph, given_arrays)
            makers = graph.producers()
            mine, others = (as_tuple(engine(given_arrays)) for engine in (alone, team))
            for name, got, same in zip(graph.outputs, mine, others, strict=True):
                node = makers[name]
                shapes = [graph.types[v].shape for v in node.inputs if v]
                what = f"{node.op} {dict(node.attributes)} of {shapes}"
                np.testing.assert_array_equal(got, same, err_msg=f"threads: {what}")
                _close(got, wanted[name], tolerance, what)


def as_tuple(made: Any) -> tuple[np.ndarray, ...]:
    return made if isinstance(made, tuple) else (made,)


def _close(got: np.ndarray, wanted: np.ndarray, tolerance: float, what: str) -> None:
    assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape), what
    if got.dtype.kind != "f":
        np.testing.assert_array_equal(got, wanted, err_msg=what)
        return
    scale = float(np.abs(wanted[np.isfinite(wanted)]).max(initial=0))
    np.testing.assert_allclose(got, wanted, tolerance, tolerance * scale, err_msg=what)


def together(builds: Sequence[Build]) -> Build:
    def build(net: Net) -> None:
        for one in builds:
            one(net)

    return build


def several(one: st.SearchStrategy[Build], count: int) -> st.SearchStrategy[Build]:
    return st.lists(one, min_size=count, max_size=count).map(together)


def refused(build: Build, match: str) -> None:
    with pytest.raises(CompileError, match=match):
        programs(build, Machine(16, 32), 1)
